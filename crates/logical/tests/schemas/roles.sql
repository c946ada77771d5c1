-- Roles of the cluster that the other scripts need.
CREATE ROLE plain_role;
CREATE ROLE "Odd ""Role""" IN ROLE plain_role;
CREATE ROLE grantee_role;
