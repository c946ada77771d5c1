-- Classes that few databases have. Needs tables.sql and code.sql.
CREATE SCHEMA other;
CREATE FUNCTION other.eq(plain.mood, plain.mood) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'enum_eq';
CREATE FUNCTION other.hash(plain.mood, bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT AS 'hashenumextended';
CREATE OPERATOR other.=== (FUNCTION = other.eq, LEFTARG = plain.mood, RIGHTARG = plain.mood, COMMUTATOR = OPERATOR(other.===),
    RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
COMMENT ON OPERATOR other.=== (plain.mood, plain.mood) IS 'an operator';
CREATE OPERATOR other.!# (FUNCTION = int4abs, RIGHTARG = integer);
CREATE OPERATOR FAMILY other.family USING hash;
CREATE OPERATOR CLASS other."Class" FOR TYPE plain.mood USING hash FAMILY other.family AS
    OPERATOR 1 other.===, FUNCTION 2 other.hash(plain.mood, bigint);
COMMENT ON OPERATOR CLASS other."Class" USING hash IS 'a class';
ALTER OPERATOR FAMILY other.family USING hash ADD OPERATOR 1 pg_catalog.=(integer, integer);
CREATE OPERATOR CLASS other.points FOR TYPE point USING gist AS STORAGE box,
    OPERATOR 1 pg_catalog.<<(point, point), OPERATOR 15 pg_catalog.<->(point, point) FOR ORDER BY float_ops,
    FUNCTION 1 gist_point_consistent(internal, point, smallint, oid, internal), FUNCTION 2 gist_box_union(internal, internal),
    FUNCTION 5 gist_box_penalty(internal, internal, internal), FUNCTION 6 gist_box_picksplit(internal, internal),
    FUNCTION 7 gist_box_same(box, box, internal);
CREATE ACCESS METHOD heap_again TYPE TABLE HANDLER heap_tableam_handler;
COMMENT ON ACCESS METHOD heap_again IS 'an access method';
CREATE TABLE other.in_heap_again (a integer) USING heap_again;
CREATE CAST (plain.composite AS text) WITH INOUT AS ASSIGNMENT;
CREATE FUNCTION other.to_mood(integer) RETURNS plain.mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'sad'::plain.mood $$;
CREATE CAST (integer AS plain.mood) WITH FUNCTION other.to_mood(integer) AS IMPLICIT;
COMMENT ON CAST (integer AS plain.mood) IS 'a cast';
CREATE TRANSFORM FOR date LANGUAGE sql (FROM SQL WITH FUNCTION pg_catalog.varchar_support(internal));
CREATE FUNCTION other.handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE FUNCTION other.validator(oid) RETURNS void LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_validator';
CREATE TRUSTED LANGUAGE "Odd Lang" HANDLER other.handler VALIDATOR other.validator;
COMMENT ON LANGUAGE "Odd Lang" IS 'a language';
GRANT USAGE ON LANGUAGE "Odd Lang" TO grantee_role;
CREATE COLLATION other."Coll" (lc_collate = 'C', lc_ctype = 'POSIX');
CREATE COLLATION other.same (locale = 'C');
COMMENT ON COLLATION other.same IS 'a collation';
CREATE TABLE other.collated (a text COLLATE other."Coll");
CREATE DEFAULT CONVERSION other.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
COMMENT ON CONVERSION other.conv IS 'a conversion';
CREATE TEXT SEARCH PARSER other.parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH TEMPLATE other.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY other.dictionary (TEMPLATE = other.template, stopwords = 'english', accept = false);
CREATE TEXT SEARCH CONFIGURATION other.configuration (PARSER = other.parser);
ALTER TEXT SEARCH CONFIGURATION other.configuration ADD MAPPING FOR asciiword, word WITH other.dictionary, pg_catalog.simple;
COMMENT ON TEXT SEARCH CONFIGURATION other.configuration IS 'a configuration';
COMMENT ON TEXT SEARCH PARSER other.parser IS 'a parser';
CREATE FOREIGN DATA WRAPPER "Odd Wrapper" VALIDATOR postgresql_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER "Odd Wrapper" IS 'a wrapper';
GRANT USAGE ON FOREIGN DATA WRAPPER "Odd Wrapper" TO grantee_role;
CREATE SERVER "Odd Server" TYPE 'a type' VERSION '1''1' FOREIGN DATA WRAPPER "Odd Wrapper" OPTIONS (host 'h', dbname 'it''s');
ALTER SERVER "Odd Server" OWNER TO CURRENT_USER;
GRANT USAGE ON FOREIGN SERVER "Odd Server" TO grantee_role;
CREATE USER MAPPING FOR "Odd ""Role""" SERVER "Odd Server" OPTIONS (user 'u', password 'it''s');
CREATE USER MAPPING FOR PUBLIC SERVER "Odd Server";
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE other."Foreign" (a integer OPTIONS (column_name 'A'), b text NOT NULL DEFAULT 'x', CHECK (a > 0)) SERVER nowhere OPTIONS (table_name 'T');
ALTER FOREIGN TABLE other."Foreign" ALTER a SET STATISTICS 3;
CREATE TRIGGER on_foreign BEFORE INSERT ON other."Foreign" FOR EACH ROW EXECUTE FUNCTION code.fired();
ALTER FOREIGN TABLE other."Foreign" DISABLE TRIGGER on_foreign;

CREATE TABLE other.secured (a integer, who text);
ALTER TABLE other.secured ENABLE ROW LEVEL SECURITY;
ALTER TABLE other.secured FORCE ROW LEVEL SECURITY;
CREATE POLICY "Odd Policy" ON other.secured AS RESTRICTIVE FOR UPDATE TO plain_role, "Odd ""Role""" USING (a > 0) WITH CHECK (who = current_user);
CREATE POLICY simple ON other.secured USING (true);
COMMENT ON POLICY simple ON other.secured IS 'a policy';
CREATE PUBLICATION "Odd Pub" FOR TABLE plain.dropped, ONLY plain.parent WITH (publish = 'insert, delete', publish_via_partition_root = true);
CREATE PUBLICATION all_tables FOR ALL TABLES;
COMMENT ON PUBLICATION all_tables IS 'a publication';
CREATE SUBSCRIPTION "Odd Sub" CONNECTION 'host=''nowhere'' dbname=x' PUBLICATION "Odd Pub", other
    WITH (connect = false, slot_name = NONE, enabled = false, create_slot = false, synchronous_commit = local);
COMMENT ON SUBSCRIPTION "Odd Sub" IS 'a subscription';
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO grantee_role;
ALTER DEFAULT PRIVILEGES FOR ROLE plain_role IN SCHEMA other GRANT ALL ON FUNCTIONS TO "Odd ""Role""" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE plain_role REVOKE USAGE ON TYPES FROM PUBLIC;
-- Extensions and what was granted on their members since; built-in functions with other privileges.
CREATE EXTENSION citext WITH SCHEMA other;
COMMENT ON EXTENSION citext IS 'another comment';
REVOKE ALL ON FUNCTION other.citext_eq(other.citext, other.citext) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text) TO grantee_role;
GRANT SELECT (rolname) ON pg_catalog.pg_authid TO grantee_role;
CREATE TABLE other.with_citext (a other.citext);
CREATE FUNCTION other.needs_citext() RETURNS integer LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION other.needs_citext() DEPENDS ON EXTENSION citext;
CREATE INDEX citext_index ON other.with_citext (a);
ALTER INDEX other.citext_index DEPENDS ON EXTENSION citext;
