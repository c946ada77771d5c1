//! What depends on what, as the server knows it.

use pgkeep_tool::Result;

use super::Collector;
use crate::dump::model::Kind;

/// Members of operator families are no objects of their own here: what they depend on, their family does.
pub(super) const DEPENDENCIES: &str = "SELECT classid, objid, refclassid, refobjid, deptype FROM pg_catalog.pg_depend \
             WHERE deptype <> 'p' AND deptype <> 'e' \
             UNION ALL \
             SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass AS classid, amopfamily AS objid, refclassid, \
               refobjid, deptype FROM pg_catalog.pg_depend d, pg_catalog.pg_amop o \
             WHERE deptype NOT IN ('p', 'e', 'i') AND classid = 'pg_catalog.pg_amop'::pg_catalog.regclass \
               AND objid = o.oid AND NOT (refclassid = 'pg_catalog.pg_opfamily'::pg_catalog.regclass \
                                          AND amopfamily = refobjid) \
             UNION ALL \
             SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass AS classid, amprocfamily AS objid, refclassid, \
               refobjid, deptype FROM pg_catalog.pg_depend d, pg_catalog.pg_amproc p \
             WHERE deptype NOT IN ('p', 'e', 'i') AND classid = 'pg_catalog.pg_amproc'::pg_catalog.regclass \
               AND objid = p.oid AND NOT (refclassid = 'pg_catalog.pg_opfamily'::pg_catalog.regclass \
                                          AND amprocfamily = refobjid) \
             ORDER BY 1, 2";

impl Collector<'_> {
    pub(super) fn dependencies(&mut self) -> Result<()> {
        let rows = self.session.query(DEPENDENCIES)?;
        for row in rows.iter() {
            let kind = row.text("deptype")?;
            // TOAST tables and the like are not among the objects.
            let from = self.model.find(row.parse("classid")?, row.parse("objid")?);
            let on = self.model.find(row.parse("refclassid")?, row.parse("refobjid")?);
            let (Some(from), Some(on)) = (from, on) else { continue };
            if kind == "x" {
                self.model.get_mut(from).depends_on_extension = true;
            }
            // The relation of a composite type depends on the type, which is right for DROP, but here the type needs it.
            let composite = kind == "i"
                && matches!(self.model.get(from).kind, Kind::Table(_))
                && matches!(self.model.get(on).kind, Kind::Type(_));
            if composite {
                self.model.depend(on, from);
            } else {
                self.model.depend(from, on);
            }
        }
        Ok(())
    }
}
