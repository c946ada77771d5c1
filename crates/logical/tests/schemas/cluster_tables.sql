CREATE SCHEMA things;
CREATE TABLE things.numbers (id int PRIMARY KEY, price float8, name text COMPRESSION pglz, data bytea);
INSERT INTO things.numbers VALUES (1, 0.1, 'one', '\x00'), (2, 1e300, NULL, NULL), (3, -0.25, 'two
lines	\', '\xff');
COMMENT ON TABLE things.numbers IS 'a comment';
ALTER TABLE things.numbers OWNER TO plain;
GRANT SELECT ON things.numbers TO PUBLIC;
CREATE POLICY mine ON things.numbers USING (id > 0);
CREATE SEQUENCE things.counter;
SELECT nextval('things.counter');
CREATE UNLOGGED TABLE things.forgotten (id int);
INSERT INTO things.forgotten VALUES (1);
CREATE TABLE things.parted (id int) PARTITION BY LIST (id);
CREATE TABLE things.part PARTITION OF things.parted FOR VALUES IN (1, 2);
INSERT INTO things.parted VALUES (1), (2);
CREATE FUNCTION things.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE TABLE things.elsewhere (id int) TABLESPACE "Odd ""space""";
