//! Functions, procedures and aggregates.

use pgkeep_tool::Result;

use super::{Collector, catalog_id};
use crate::dump::model::{FIRST_NORMAL_OID, Function, Kind};
use crate::dump::session::{number, oids, text};

impl Collector<'_> {
    /// Functions outside of `pg_catalog`; in it, those that users' casts and transforms use, and those whose privileges
    /// are not what `initdb` gave. Constructors of ranges, which are internal to their type, are left out.
    pub(super) fn functions(&mut self) -> Result<()> {
        let sql = format!(
            "{} p.prokind <> 'a' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend \
               WHERE classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND objid = p.oid AND deptype = 'i') \
             AND (p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
               OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast c WHERE c.oid >= {FIRST_NORMAL_OID} \
                          AND p.oid = c.castfunc) \
               OR EXISTS (SELECT 1 FROM pg_catalog.pg_transform t WHERE t.oid >= {FIRST_NORMAL_OID} \
                          AND (p.oid = t.trffromsql OR p.oid = t.trftosql)) \
               OR p.proacl IS DISTINCT FROM pip.initprivs{})",
            routines(),
            self.or_member()
        );
        self.routines(&sql, Kind::Function)
    }

    pub(super) fn aggregates(&mut self) -> Result<()> {
        let sql = format!(
            "{} p.prokind = 'a' AND (p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
             OR p.proacl IS DISTINCT FROM pip.initprivs{})",
            routines(),
            self.or_member()
        );
        self.routines(&sql, Kind::Aggregate)
    }

    /// In a binary upgrade members of extensions are made one by one, those in `pg_catalog` too.
    fn or_member(&self) -> &'static str {
        match self.options.binary_upgrade {
            true => {
                " OR EXISTS (SELECT 1 FROM pg_catalog.pg_depend \
                   WHERE classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND objid = p.oid \
                   AND refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND deptype = 'e')"
            }
            false => "",
        }
    }

    fn routines(&mut self, sql: &str, kind: fn(Function) -> Kind) -> Result<()> {
        let rows = self.session.query(sql)?;
        for row in rows.iter() {
            let function = Function {
                arguments: oids(&text(row, "proargtypes")?),
                result: number(row, "prorettype")?,
                postponed: false,
            };
            let schema = self.schema(row.parse("pronamespace")?)?;
            let id = self.model.add(catalog_id(row)?, row.text("proname")?, Some(schema), kind(function));
            self.owner(id, row.parse("proowner")?)?;
            self.select(id);
            self.privileges(id, row, "proacl")?;
        }
        Ok(())
    }
}

fn routines() -> &'static str {
    "SELECT p.tableoid, p.oid, p.proname, p.proargtypes, p.prorettype, p.proacl, \
     pg_catalog.acldefault('f', p.proowner) AS acldefault, p.pronamespace, p.proowner \
     FROM pg_catalog.pg_proc p LEFT JOIN pg_catalog.pg_init_privs pip ON (p.oid = pip.objoid \
       AND pip.classoid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND pip.objsubid = 0) WHERE"
}
