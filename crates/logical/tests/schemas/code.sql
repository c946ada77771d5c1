-- Functions, types, views, rules, triggers and what else holds code. Needs tables.sql.
CREATE SCHEMA code;
CREATE FUNCTION code.simple(a integer, b text DEFAULT 'x', OUT c integer, OUT d text) RETURNS record
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER COST 5 PARALLEL SAFE
    SET search_path = "$user", "Odd Schema", '' SET work_mem = '1MB'
    AS $f$ BEGIN c := a; d := '$$ $f ' || b; END $f$;
COMMENT ON FUNCTION code.simple(integer, text) IS 'a function';
REVOKE ALL ON FUNCTION code.simple(integer, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION code.simple(integer, text) TO grantee_role;
CREATE FUNCTION code.simple(a bigint) RETURNS bigint LANGUAGE sql IMMUTABLE LEAKPROOF PARALLEL RESTRICTED AS 'SELECT a';
CREATE FUNCTION code."Odd Fn"(VARIADIC "A b" text[]) RETURNS SETOF integer LANGUAGE sql ROWS 5
    AS $$ SELECT 1 UNION SELECT 2 $$;
CREATE FUNCTION code.a_table(integer) RETURNS TABLE (x integer, y text) LANGUAGE sql AS 'SELECT $1, ''y''';
CREATE FUNCTION code.sql_body(a integer) RETURNS integer RETURN a + 1;
CREATE FUNCTION code.in_c(text, text) RETURNS text LANGUAGE internal AS 'textcat';
CREATE FUNCTION code.windowed() RETURNS bigint LANGUAGE internal WINDOW AS 'window_row_number';
CREATE PROCEDURE code."Proc"(INOUT a integer) LANGUAGE plpgsql AS $$ BEGIN a := a + 1; END $$;
COMMENT ON PROCEDURE code."Proc"(integer) IS 'a procedure';
GRANT EXECUTE ON PROCEDURE code."Proc"(integer) TO grantee_role;
CREATE FUNCTION code.uses_key() RETURNS SETOF text LANGUAGE sql
    BEGIN ATOMIC SELECT "A ""b""" FROM "Odd Schema"."select" GROUP BY id; END;

CREATE AGGREGATE code.summed(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0', COMBINEFUNC = int4pl, PARALLEL = safe);
CREATE AGGREGATE code.counted(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0', FINALFUNC = int8abs, FINALFUNC_MODIFY = SHAREABLE);
CREATE AGGREGATE code.moving(int8) (SFUNC = int8pl, STYPE = int8, MSFUNC = int8pl, MINVFUNC = int8mi, MSTYPE = int8, SSPACE = 9, SORTOP = <);
COMMENT ON AGGREGATE code.summed(integer) IS 'an aggregate';
GRANT EXECUTE ON FUNCTION code.counted() TO grantee_role;

-- Types.
CREATE TYPE code.shell;
CREATE TYPE code.base;
CREATE FUNCTION code.base_in(cstring) RETURNS code.base LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION code.base_out(code.base) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE code.base (INPUT = code.base_in, OUTPUT = code.base_out, STORAGE = extended, CATEGORY = 'S', DELIMITER = ';',
    COLLATABLE = true, DEFAULT = 'it''s');
COMMENT ON TYPE code.base IS 'a base type';
ALTER TYPE code.base OWNER TO plain_role;
REVOKE USAGE ON TYPE code.base FROM PUBLIC;
CREATE TYPE code.floats AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE code.texts AS RANGE (subtype = text, collation = "C", multirange_type_name = code."Multi Texts",
    subtype_opclass = text_pattern_ops);
CREATE DOMAIN code.positive AS integer DEFAULT 5 NOT NULL CONSTRAINT above CHECK (VALUE > 0) CHECK (VALUE < 1000);
COMMENT ON DOMAIN code.positive IS 'a domain';
COMMENT ON CONSTRAINT above ON DOMAIN code.positive IS 'its check';
CREATE DOMAIN code."Odd Domain" AS text COLLATE "C";
ALTER DOMAIN code."Odd Domain" ADD CONSTRAINT later CHECK (VALUE <> '') NOT VALID;
CREATE DOMAIN code.of_domain AS code.positive[];
COMMENT ON TYPE plain.mood IS 'an enum';
CREATE TABLE code.of_types (a code.base, b code.floats, c code.texts, d code.positive, e plain.composite[], f code.of_domain);

-- Views.
CREATE VIEW code."View" ("Col", b) WITH (security_barrier = true) AS SELECT id, c FROM "Odd Schema"."select" WHERE id > 0
    WITH CASCADED CHECK OPTION;
COMMENT ON VIEW code."View" IS 'a view';
COMMENT ON COLUMN code."View"."Col" IS 'its column';
GRANT SELECT ON code."View" TO PUBLIC;
CREATE VIEW code.with_default AS SELECT a, b FROM plain.dropped;
ALTER VIEW code.with_default ALTER b SET DEFAULT 42;
CREATE VIEW code.local_check AS SELECT a FROM plain.dropped WHERE a > 0 WITH LOCAL CHECK OPTION;
CREATE VIEW code.uses_function AS SELECT code.sql_body(a) AS n, row_number() OVER () FROM plain.dropped;
-- Needs a primary key for its grouping: moves behind the data.
CREATE VIEW code.grouped AS SELECT id, "A ""b""" FROM "Odd Schema"."select" GROUP BY id;
CREATE MATERIALIZED VIEW code.filled AS SELECT a, b FROM plain.dropped;
CREATE MATERIALIZED VIEW code.on_filled TABLESPACE pg_default AS SELECT a FROM code.filled WITH DATA;
CREATE MATERIALIZED VIEW code.empty AS SELECT a FROM plain.dropped WITH NO DATA;
CREATE MATERIALIZED VIEW code.matview_grouped AS SELECT id, "A ""b""" FROM "Odd Schema"."select" GROUP BY id;
CREATE UNIQUE INDEX filled_a ON code.filled (a);
COMMENT ON MATERIALIZED VIEW code.filled IS 'a materialised view';
CREATE FUNCTION code.from_view() RETURNS SETOF code.grouped LANGUAGE sql AS 'SELECT * FROM code.grouped';
-- Two views that need each other.
CREATE VIEW code.circle_1 AS SELECT 1 AS a;
CREATE VIEW code.circle_2 AS SELECT a FROM code.circle_1;
CREATE FUNCTION code.of_circle(code.circle_2) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE VIEW code.circle_1 AS SELECT code.of_circle(NULL) AS a;

-- Rules and triggers.
CREATE RULE "Odd Rule" AS ON INSERT TO code.with_default DO INSTEAD INSERT INTO plain.dropped (a) VALUES (new.a);
CREATE RULE also AS ON UPDATE TO plain.dropped WHERE new.a > 5 DO ALSO DELETE FROM plain.nothing WHERE a = old.a;
ALTER TABLE plain.dropped DISABLE RULE also;
COMMENT ON RULE also ON plain.dropped IS 'a rule';
CREATE FUNCTION code.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER "Trig 1" BEFORE INSERT OR UPDATE OF a ON plain.dropped FOR EACH ROW WHEN (new.a > 3) EXECUTE FUNCTION code.fired('x', 'it''s');
CREATE CONSTRAINT TRIGGER constrained AFTER INSERT ON plain.dropped DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION code.fired();
CREATE TRIGGER stated AFTER INSERT ON plain.dropped REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION code.fired();
ALTER TABLE plain.dropped DISABLE TRIGGER "Trig 1";
ALTER TABLE plain.dropped ENABLE ALWAYS TRIGGER constrained;
ALTER TABLE plain.dropped ENABLE REPLICA TRIGGER stated;
COMMENT ON TRIGGER stated ON plain.dropped IS 'a trigger';
CREATE TRIGGER for_partitions AFTER INSERT ON plain.parted FOR EACH ROW EXECUTE FUNCTION code.fired();
ALTER TABLE plain.parted_1 DISABLE TRIGGER for_partitions;
CREATE TRIGGER instead INSTEAD OF DELETE ON code."View" FOR EACH ROW EXECUTE FUNCTION code.fired();
CREATE FUNCTION code.event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER "Event" ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION code.event();
ALTER EVENT TRIGGER "Event" DISABLE;
COMMENT ON EVENT TRIGGER "Event" IS 'an event trigger';

-- A check and a default that need what needs the table.
CREATE TABLE code.loop_check (a integer);
CREATE FUNCTION code.of_loop_check(code.loop_check) RETURNS boolean LANGUAGE sql AS 'SELECT true';
ALTER TABLE code.loop_check ADD CONSTRAINT looped CHECK (code.of_loop_check(loop_check));
CREATE TABLE code.loop_default (a integer);
CREATE FUNCTION code.of_loop_default() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT max(a) FROM code.loop_default; END;
ALTER TABLE code.loop_default ALTER a SET DEFAULT code.of_loop_default();
CREATE DOMAIN code.looped_domain AS integer;
CREATE FUNCTION code.of_looped_domain(code.looped_domain) RETURNS boolean LANGUAGE sql AS 'SELECT true';
ALTER DOMAIN code.looped_domain ADD CONSTRAINT looped CHECK (code.of_looped_domain(VALUE));
