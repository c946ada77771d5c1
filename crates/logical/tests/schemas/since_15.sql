-- What servers have from 15 on. Needs the scripts without a version.
CREATE TABLE plain.nulls (a integer, CONSTRAINT nulls_unique UNIQUE NULLS NOT DISTINCT (a));
CREATE UNIQUE INDEX nulls_index ON plain.nulls (a) NULLS NOT DISTINCT;
CREATE PUBLICATION filtered FOR TABLE plain.constrained (a, c) WHERE (a > 3);
CREATE PUBLICATION "Of Schemas" FOR TABLES IN SCHEMA "Odd Schema", plain;
CREATE UNLOGGED SEQUENCE plain.unlogged_seq;
CREATE VIEW code.invoker WITH (security_invoker = true, check_option = local) AS SELECT a FROM plain.dropped;
ALTER SUBSCRIPTION "Odd Sub" SET (disable_on_error = true);
