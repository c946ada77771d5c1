-- What belongs to no database. TABLESPACES stands for a directory.
SET password_encryption = 'md5';
CREATE ROLE plain;
CREATE ROLE "Odd ""role""" LOGIN CREATEDB CREATEROLE CONNECTION LIMIT 7 PASSWORD 'secret' VALID UNTIL '2031-05-06 07:08:09+00';
CREATE ROLE "new
line" NOINHERIT REPLICATION BYPASSRLS;
CREATE ROLE "select" SUPERUSER PASSWORD NULL VALID UNTIL 'infinity';
CREATE ROLE "größe" LOGIN;
CREATE ROLE member_a;
CREATE ROLE member_b;
CREATE ROLE member_c;
CREATE ROLE group_x;
COMMENT ON ROLE plain IS 'it''s a \ role';
COMMENT ON ROLE "Odd ""role""" IS 'two
lines';

ALTER ROLE plain SET work_mem = '3MB';
ALTER ROLE plain SET search_path = "$user", "Odd schema", public, "back\slash";
ALTER ROLE plain SET application_name = 'a\b''c';
ALTER ROLE "new
line" SET datestyle = 'German';
ALTER ROLE "Odd ""role""" SET "my.setting" = 'x';
ALTER ROLE "Odd ""role""" SET temp_tablespaces = '';

GRANT group_x TO member_c WITH ADMIN OPTION;
GRANT group_x TO member_b;
SET SESSION AUTHORIZATION member_c;
GRANT group_x TO member_a WITH ADMIN OPTION;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION member_a;
GRANT group_x TO plain;
RESET SESSION AUTHORIZATION;
GRANT "Odd ""role""" TO "new
line";
GRANT pg_read_all_data TO plain;
GRANT pg_monitor TO member_a WITH ADMIN OPTION;

CREATE TABLESPACE space_a OWNER plain LOCATION 'TABLESPACES/a';
CREATE TABLESPACE "Odd ""space""" LOCATION 'TABLESPACES/b' WITH (seq_page_cost = 1.5, random_page_cost = 2);
COMMENT ON TABLESPACE space_a IS 'a \ comment';
GRANT CREATE ON TABLESPACE space_a TO "Odd ""role""" WITH GRANT OPTION;
SET SESSION AUTHORIZATION "Odd ""role""";
GRANT CREATE ON TABLESPACE space_a TO member_a;
RESET SESSION AUTHORIZATION;
REVOKE CREATE ON TABLESPACE space_a FROM plain;
GRANT CREATE ON TABLESPACE "Odd ""space""" TO PUBLIC;

CREATE DATABASE "Odd 'db'" OWNER plain TABLESPACE space_a CONNECTION LIMIT 9;
CREATE DATABASE "Latin DB" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE closed ALLOW_CONNECTIONS false;
CREATE DATABASE other IS_TEMPLATE true;
COMMENT ON DATABASE other IS 'the \ other';
COMMENT ON DATABASE postgres IS 'another comment';
GRANT CREATE ON DATABASE other TO plain;
REVOKE CONNECT ON DATABASE template1 FROM PUBLIC;
ALTER DATABASE other SET work_mem = '5MB';
ALTER DATABASE template1 SET application_name = 'back\slash';
ALTER ROLE plain IN DATABASE other SET search_path = "A", b;
ALTER ROLE "Odd ""role""" IN DATABASE "Odd 'db'" SET work_mem = '6MB';
ALTER ROLE plain IN DATABASE postgres SET work_mem = '7MB';
