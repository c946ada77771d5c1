-- A database with nearly every kind of object and with names that are hard to quote.
-- Roles alice and "Bob ""x""" are there already. Runs on every server from 14 on.
CREATE SCHEMA "Odd Schema"; CREATE SCHEMA s2 AUTHORIZATION alice;
CREATE TABLE t(id int primary key, v text default 'x;y', n numeric);
INSERT INTO t SELECT i, 'val '||i||E'\t\\x', i*1.5 FROM generate_series(1,1000) i;
CREATE TABLE "Odd Schema"."odd
table;"(a int, "select" text);
INSERT INTO "Odd Schema"."odd
table;" VALUES (1,'a''b;c"d'),(2,NULL);
CREATE TABLE s2.child(id int references t(id), b bytea);
INSERT INTO s2.child VALUES (1,'\x00ff'),(2,null);
ALTER TABLE s2.child OWNER TO alice;
CREATE INDEX child_id ON s2.child(id);
CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t;
CREATE INDEX mvi ON mv(count);
CREATE SEQUENCE sq START 5; SELECT nextval('sq');
CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS $$ SELECT $1; $$; 
CREATE PROCEDURE pr() LANGUAGE plpgsql AS $$ begin end $$;
CREATE AGGREGATE ag(int) (sfunc=int4pl, stype=int);
CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS $$ begin return new; end $$;
CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tf();
CREATE FUNCTION etf() RETURNS event_trigger LANGUAGE plpgsql AS $$ begin end $$;
CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION etf(); COMMENT ON EVENT TRIGGER et IS 'evt';
COMMENT ON TABLE t IS 'comment; with '' quotes'; COMMENT ON COLUMN t.v IS 'col';
GRANT SELECT ON t TO alice; GRANT SELECT(v) ON t TO "Bob ""x"""; GRANT EXECUTE ON FUNCTION f(int,text) TO alice;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO alice;
ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p1 ON t USING (true); COMMENT ON POLICY p1 ON t IS 'pc';
CREATE PUBLICATION pub FOR TABLE t; COMMENT ON PUBLICATION pub IS 'pubc';
CREATE TABLE pt(k int, v text) PARTITION BY HASH(k); CREATE TABLE pt0 PARTITION OF pt FOR VALUES WITH (modulus 2, remainder 0); CREATE TABLE pt1 PARTITION OF pt FOR VALUES WITH (modulus 2, remainder 1);
INSERT INTO pt SELECT i, 'p'||i FROM generate_series(1,50) i;
ALTER TABLE pt ADD PRIMARY KEY (k);
CREATE TYPE en AS ENUM ('a','b'); CREATE DOMAIN dm AS int CHECK (value > 0); CREATE OPERATOR === (leftarg=int, rightarg=int, function=int4eq);
CREATE COLLATION coll FROM "C"; CREATE CAST (en AS dm) WITH INOUT; CREATE STATISTICS st ON id, n FROM t;
CREATE TABLE ser(id serial, id2 int generated always as identity);
CREATE TABLE deferr(a int default 5); ALTER TABLE deferr ADD CHECK (a>0) NOT VALID;
CREATE EXTENSION hstore; CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER srv FOREIGN DATA WRAPPER fdw; CREATE USER MAPPING FOR alice SERVER srv;
CREATE FOREIGN TABLE ft(a int) SERVER srv;
CREATE RULE ru AS ON INSERT TO deferr DO ALSO NOTHING;
ALTER DATABASE demo SET work_mem='5MB'; COMMENT ON DATABASE demo IS 'the db'; GRANT CONNECT ON DATABASE demo TO alice;
SELECT lo_from_bytea(70001, 'hello'::bytea); SELECT lo_from_bytea(70002, decode(repeat('00ff5c27',10000),'hex')); SELECT lo_create(70003);
SELECT lo_from_bytea(70005, 'own'::bytea); ALTER LARGE OBJECT 70005 OWNER TO alice; GRANT SELECT ON LARGE OBJECT 70001 TO alice; GRANT SELECT ON LARGE OBJECT 70002 TO alice; COMMENT ON LARGE OBJECT 70003 IS 'lo c'; GRANT UPDATE ON LARGE OBJECT 70001, 70002 TO "Bob ""x""";
ANALYZE;
