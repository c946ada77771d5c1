-- What servers have from 18 on. Needs the scripts without a version.
CREATE TABLE plain.not_nulls (
    a integer CONSTRAINT "named a" NOT NULL, b integer NOT NULL NO INHERIT, c integer, d integer NOT NULL,
    v integer GENERATED ALWAYS AS (a + 1) VIRTUAL
);
ALTER TABLE plain.not_nulls ADD CONSTRAINT later NOT NULL c NOT VALID;
COMMENT ON CONSTRAINT "named a" ON plain.not_nulls IS 'a NOT NULL';
COMMENT ON CONSTRAINT not_nulls_d_not_null ON plain.not_nulls IS 'one with the usual name';
COMMENT ON CONSTRAINT later ON plain.not_nulls IS 'a NOT NULL that is not valid';
INSERT INTO plain.not_nulls (a, b, c, d) VALUES (1, 2, 3, 4);
CREATE TABLE plain.inherits_not_nulls () INHERITS (plain.not_nulls);
CREATE TABLE plain.inherits_more (CONSTRAINT own_a NOT NULL c) INHERITS (plain.not_nulls);
ALTER TABLE plain.referencing ADD CONSTRAINT not_enforced FOREIGN KEY (parent) REFERENCES plain.referencing NOT ENFORCED;
ALTER TABLE plain.nothing ADD CONSTRAINT check_not_enforced CHECK (a > 0) NOT ENFORCED;
CREATE TABLE plain.periods (id int4range, valid daterange, CONSTRAINT periods_key PRIMARY KEY (id, valid WITHOUT OVERLAPS));
CREATE TABLE plain.of_periods (id int4range, valid daterange, FOREIGN KEY (id, PERIOD valid) REFERENCES plain.periods (id, PERIOD valid));
CREATE PUBLICATION generated FOR TABLE plain.generated WITH (publish_generated_columns = stored);
ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO grantee_role;
