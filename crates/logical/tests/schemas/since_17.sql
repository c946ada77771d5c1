-- What servers have from 17 on. Needs the scripts without a version.
CREATE DOMAIN code.named_not_null AS integer CONSTRAINT must_be NOT NULL;
COMMENT ON CONSTRAINT must_be ON DOMAIN code.named_not_null IS 'a NOT NULL';
CREATE COLLATION other.builtin (provider = builtin, locale = 'C');
GRANT MAINTAIN ON plain.nothing TO grantee_role;
