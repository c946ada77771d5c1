//! Facts of classes whose definitions are put together from columns of one or two queries, by object.

use std::collections::HashMap;

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;
use pgkeep_wire::Row;

use super::texts::wanted_oids;
use crate::dump::model::{Id, Kind, Model};
use crate::dump::session::Session;

/// The columns of a row, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Record(HashMap<String, String>);

impl Record {
    fn of(row: Row<'_>, columns: &[String]) -> Result<Record> {
        let mut record = HashMap::new();
        for column in columns {
            if let Some(value) = row.optional(column)? {
                record.insert(column.clone(), value.to_owned());
            }
        }
        Ok(Record(record))
    }

    /// A column; `None` when it is NULL.
    pub(super) fn get(&self, column: &str) -> Option<&str> {
        self.0.get(column).map(String::as_str)
    }

    /// A column; empty when it is NULL.
    pub(super) fn text(&self, column: &str) -> &str {
        self.get(column).unwrap_or("")
    }

    /// A truth value; NULL is false.
    pub(super) fn flag(&self, column: &str) -> bool {
        self.get(column) == Some("t")
    }

    /// A number; 0 when it is NULL.
    pub(super) fn oid(&self, column: &str) -> u32 {
        self.text(column).parse().unwrap_or(0)
    }

    /// A function by its name; `None` for `-`, which stands for no function.
    pub(super) fn function(&self, column: &str) -> Option<&str> {
        self.get(column).filter(|name| *name != "-" && !name.is_empty())
    }

    /// The first letter.
    pub(super) fn letter(&self, column: &str) -> u8 {
        self.text(column).bytes().next().unwrap_or(0)
    }
}

/// The records of all objects that are dumped.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_object: HashMap<CatalogId, Record>,
    /// Members of operator classes and families, mappings of text search configurations, user mappings of servers.
    members: HashMap<(&'static str, u32), Vec<Record>>,
}

impl Records {
    pub(super) fn of(&self, object: CatalogId) -> Record {
        self.by_object.get(&object).cloned().unwrap_or_default()
    }

    pub(super) fn members(&self, what: &'static str, oid: u32) -> &[Record] {
        self.members.get(&(what, oid)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn fetch(session: &mut Session, model: &Model, order: &[Id]) -> Result<Records> {
        let mut fetcher = Fetcher { session, model, order, records: Records::default() };
        fetcher.routines()?;
        fetcher.operators()?;
        fetcher.others()?;
        fetcher.text_search()?;
        fetcher.foreign()?;
        fetcher.replication()?;
        Ok(fetcher.records)
    }
}

struct Fetcher<'a> {
    session: &'a mut Session,
    model: &'a Model,
    order: &'a [Id],
    records: Records,
}

const OPTIONS: &str = "SELECT pg_catalog.quote_ident(option_name) || ' ' || pg_catalog.quote_literal(option_value) \
                       FROM pg_catalog.pg_options_to_table";

impl Fetcher<'_> {
    /// OIDs of objects that are dumped and have a place in a catalog; `None` when there are none.
    fn wanted(&self, which: impl Fn(&Kind) -> bool) -> Option<String> {
        wanted_oids(self.model, self.order, |object| object.catalog.table_oid != 0 && which(&object.kind))
    }

    /// One record for each object: `sql` gives `tableoid` and `oid`, and takes the OIDs for `$`.
    fn class(&mut self, which: impl Fn(&Kind) -> bool, sql: &str) -> Result<()> {
        let Some(array) = self.wanted(which) else { return Ok(()) };
        let rows = self.session.query(&sql.replace('$', &array))?;
        for row in rows.iter() {
            let object = CatalogId { table_oid: row.parse("tableoid")?, oid: row.parse("oid")? };
            self.records.by_object.insert(object, Record::of(row, rows.columns())?);
        }
        Ok(())
    }

    /// Several records for each object, in the query's order: `sql` gives `of`, and takes the OIDs for `$`.
    fn members(&mut self, what: &'static str, which: impl Fn(&Kind) -> bool, sql: &str) -> Result<()> {
        let Some(array) = self.wanted(which) else { return Ok(()) };
        let rows = self.session.query(&sql.replace('$', &array))?;
        for row in rows.iter() {
            let record = Record::of(row, rows.columns())?;
            self.records.members.entry((what, row.parse("of")?)).or_default().push(record);
        }
        Ok(())
    }

    fn routines(&mut self) -> Result<()> {
        self.class(
            |kind| matches!(kind, Kind::Aggregate(_)),
            "SELECT p.tableoid, p.oid, aggtransfn, aggfinalfn, aggtranstype::pg_catalog.regtype, agginitval, \
             aggsortop, pg_catalog.pg_get_function_arguments(p.oid) AS funcargs, \
             pg_catalog.pg_get_function_identity_arguments(p.oid) AS funciargs, aggkind, aggmtransfn, \
             aggminvtransfn, aggmfinalfn, aggmtranstype::pg_catalog.regtype, aggfinalextra, aggmfinalextra, \
             aggtransspace, aggmtransspace, aggminitval, aggcombinefn, aggserialfn, aggdeserialfn, proparallel, \
             aggfinalmodify, aggmfinalmodify FROM pg_catalog.pg_aggregate a \
             JOIN pg_catalog.pg_proc p ON a.aggfnoid = p.oid WHERE p.oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::Cast),
            "SELECT tableoid, oid, castsource, casttarget, castfunc, castcontext, castmethod \
             FROM pg_catalog.pg_cast WHERE oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::Transform),
            "SELECT t.tableoid, t.oid, trftype, lanname, trffromsql::pg_catalog.oid, trftosql::pg_catalog.oid \
             FROM pg_catalog.pg_transform t JOIN pg_catalog.pg_language l ON l.oid = t.trflang WHERE t.oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::Language),
            "SELECT tableoid, oid, lanpltrusted, lanplcallfoid, laninline, lanvalidator FROM pg_catalog.pg_language \
             WHERE oid = ANY($)",
        )
    }

    fn operators(&mut self) -> Result<()> {
        self.class(
            |kind| matches!(kind, Kind::Operator { .. }),
            "SELECT tableoid, oid, oprcode::pg_catalog.oid AS code, oprcode::pg_catalog.regprocedure, \
             oprleft::pg_catalog.regtype, oprright::pg_catalog.regtype, oprcom, oprnegate, \
             oprrest::pg_catalog.regprocedure, oprjoin::pg_catalog.regprocedure, oprcanmerge, oprcanhash \
             FROM pg_catalog.pg_operator WHERE oid = ANY($)",
        )?;
        let class = |kind: &Kind| matches!(kind, Kind::OperatorClass { .. });
        let family = |kind: &Kind| matches!(kind, Kind::OperatorFamily { .. });
        self.class(
            class,
            "SELECT c.tableoid, c.oid, opcintype::pg_catalog.regtype, opckeytype::pg_catalog.regtype, opcdefault, \
             opfname, nspname, (SELECT amname FROM pg_catalog.pg_am WHERE oid = opcmethod) AS amname \
             FROM pg_catalog.pg_opclass c LEFT JOIN pg_catalog.pg_opfamily f ON f.oid = opcfamily \
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = opfnamespace WHERE c.oid = ANY($)",
        )?;
        self.class(
            family,
            "SELECT f.tableoid, f.oid, (SELECT amname FROM pg_catalog.pg_am WHERE oid = opfmethod) AS amname \
             FROM pg_catalog.pg_opfamily f WHERE f.oid = ANY($)",
        )?;
        // What a class was made with depends on the class, what was added later on the family.
        let operators = |catalog: &str, belongs: &str| {
            format!(
                "SELECT refobjid AS of, amopstrategy, amopopr::pg_catalog.regoperator, f.opfname AS sortfamily, \
                 nspname AS sortfamilynsp FROM pg_catalog.pg_amop ao JOIN pg_catalog.pg_depend ON \
                   (classid = 'pg_catalog.pg_amop'::pg_catalog.regclass AND objid = ao.oid) \
                 LEFT JOIN pg_catalog.pg_opfamily f ON f.oid = amopsortfamily \
                 LEFT JOIN pg_catalog.pg_namespace n ON n.oid = f.opfnamespace \
                 WHERE refclassid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND refobjid = ANY($) AND {belongs} \
                 ORDER BY refobjid, amopstrategy"
            )
        };
        let functions = |catalog: &str| {
            format!(
                "SELECT refobjid AS of, amprocnum, amproc::pg_catalog.regprocedure, \
                 amproclefttype::pg_catalog.regtype, amprocrighttype::pg_catalog.regtype \
                 FROM pg_catalog.pg_amproc ap JOIN pg_catalog.pg_depend ON \
                   (classid = 'pg_catalog.pg_amproc'::pg_catalog.regclass AND objid = ap.oid) \
                 WHERE refclassid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND refobjid = ANY($) \
                 ORDER BY refobjid, amprocnum"
            )
        };
        let of_class = "amopfamily = (SELECT opcfamily FROM pg_catalog.pg_opclass c WHERE c.oid = refobjid)";
        self.members("operators of class", class, &operators("pg_opclass", of_class))?;
        self.members("functions of class", class, &functions("pg_opclass"))?;
        self.members("operators of family", family, &operators("pg_opfamily", "amopfamily = refobjid"))?;
        self.members("functions of family", family, &functions("pg_opfamily"))
    }

    fn others(&mut self) -> Result<()> {
        self.class(
            |kind| matches!(kind, Kind::AccessMethod),
            "SELECT tableoid, oid, amtype, amhandler::pg_catalog.regproc FROM pg_catalog.pg_am WHERE oid = ANY($)",
        )?;
        let locale = match self.session.version {
            170_000.. => "colllocale",
            150_000.. => "colliculocale",
            _ => "NULL",
        };
        let rules = if self.session.is_at_least(16) { "collicurules" } else { "NULL" };
        self.class(
            |kind| matches!(kind, Kind::Collation { .. }),
            &format!(
                "SELECT tableoid, oid, collprovider, collisdeterministic, collversion, {locale} AS locale, {rules} AS rules, \
                 collcollate, collctype FROM pg_catalog.pg_collation WHERE oid = ANY($)"
            ),
        )?;
        self.class(
            |kind| matches!(kind, Kind::Conversion),
            "SELECT tableoid, oid, pg_catalog.pg_encoding_to_char(conforencoding) AS source, \
             pg_catalog.pg_encoding_to_char(contoencoding) AS target, conproc, condefault \
             FROM pg_catalog.pg_conversion WHERE oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::EventTrigger),
            "SELECT tableoid, oid, evtenabled, evtevent, evtfoid::pg_catalog.regproc AS function, \
             pg_catalog.array_to_string(array(SELECT pg_catalog.quote_literal(x) FROM unnest(evttags) AS t(x)), ', ') \
               AS tags FROM pg_catalog.pg_event_trigger WHERE oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::Policy { .. }),
            "SELECT tableoid, oid, polcmd, polpermissive, CASE WHEN polroles = '{0}' THEN NULL ELSE \
               pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles \
                 WHERE oid = ANY(polroles)), ', ') END AS roles, \
             pg_catalog.pg_get_expr(polqual, polrelid) AS qual, \
             pg_catalog.pg_get_expr(polwithcheck, polrelid) AS withcheck FROM pg_catalog.pg_policy WHERE oid = ANY($)",
        )
    }

    fn text_search(&mut self) -> Result<()> {
        self.class(
            |kind| matches!(kind, Kind::TextSearchParser),
            "SELECT tableoid, oid, prsstart::pg_catalog.regproc, prstoken::pg_catalog.regproc, \
             prsend::pg_catalog.regproc, prsheadline::pg_catalog.regproc, prslextype::pg_catalog.regproc \
             FROM pg_catalog.pg_ts_parser WHERE oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::TextSearchTemplate),
            "SELECT tableoid, oid, tmplinit::pg_catalog.regproc, tmpllexize::pg_catalog.regproc \
             FROM pg_catalog.pg_ts_template WHERE oid = ANY($)",
        )?;
        self.class(
            |kind| matches!(kind, Kind::TextSearchDictionary),
            "SELECT d.tableoid, d.oid, nspname, tmplname, dictinitoption FROM pg_catalog.pg_ts_dict d \
             JOIN pg_catalog.pg_ts_template p ON p.oid = dicttemplate \
             JOIN pg_catalog.pg_namespace n ON n.oid = tmplnamespace WHERE d.oid = ANY($)",
        )?;
        let configuration = |kind: &Kind| matches!(kind, Kind::TextSearchConfiguration);
        self.class(
            configuration,
            "SELECT c.tableoid, c.oid, nspname, prsname FROM pg_catalog.pg_ts_config c \
             JOIN pg_catalog.pg_ts_parser p ON p.oid = cfgparser \
             JOIN pg_catalog.pg_namespace n ON n.oid = prsnamespace WHERE c.oid = ANY($)",
        )?;
        self.members(
            "mappings",
            configuration,
            "SELECT m.mapcfg AS of, (SELECT alias FROM pg_catalog.ts_token_type(c.cfgparser) AS t \
               WHERE t.tokid = m.maptokentype) AS tokenname, m.mapdict::pg_catalog.regdictionary AS dictname \
             FROM pg_catalog.pg_ts_config_map m JOIN pg_catalog.pg_ts_config c ON c.oid = m.mapcfg \
             WHERE m.mapcfg = ANY($) ORDER BY m.mapcfg, m.maptokentype, m.mapseqno",
        )
    }

    fn foreign(&mut self) -> Result<()> {
        let options = |column: &str| {
            format!(
                "pg_catalog.array_to_string(ARRAY({OPTIONS}({column}) ORDER BY option_name), E',\\n    ') AS options"
            )
        };
        self.class(
            |kind| matches!(kind, Kind::ForeignDataWrapper),
            &format!(
                "SELECT tableoid, oid, fdwhandler::pg_catalog.regproc, fdwvalidator::pg_catalog.regproc, {} \
                 FROM pg_catalog.pg_foreign_data_wrapper WHERE oid = ANY($)",
                options("fdwoptions")
            ),
        )?;
        let server = |kind: &Kind| matches!(kind, Kind::ForeignServer);
        self.class(
            server,
            &format!(
                "SELECT s.tableoid, s.oid, fdwname, srvtype, srvversion, {} FROM pg_catalog.pg_foreign_server s \
                 JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE s.oid = ANY($)",
                options("srvoptions")
            ),
        )?;
        self.members(
            "user mappings",
            server,
            &format!(
                "SELECT srvid AS of, usename, {} FROM pg_catalog.pg_user_mappings WHERE srvid = ANY($) \
                 ORDER BY srvid, usename",
                options("umoptions")
            ),
        )
    }

    fn replication(&mut self) -> Result<()> {
        let generated = if self.session.is_at_least(18) { "pubgencols" } else { "'n'" };
        self.class(
            |kind| matches!(kind, Kind::Publication),
            &format!(
                "SELECT tableoid, oid, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, \
                 {generated} AS pubgencols FROM pg_catalog.pg_publication WHERE oid = ANY($)"
            ),
        )?;
        let columns = match self.session.is_at_least(15) {
            true => {
                "pg_catalog.pg_get_expr(prqual, prrelid) AS qual, CASE WHEN pr.prattrs IS NOT NULL THEN \
                 (SELECT pg_catalog.array_agg(attname) FROM \
                   pg_catalog.generate_series(0, pg_catalog.array_upper(pr.prattrs::pg_catalog.int2[], 1)) s, \
                   pg_catalog.pg_attribute WHERE attrelid = pr.prrelid AND attnum = prattrs[s]) END AS columns"
            }
            false => "NULL AS qual, NULL AS columns",
        };
        self.class(
            |kind| matches!(kind, Kind::PublicationTable { .. }),
            &format!(
                "SELECT tableoid, oid, {columns} FROM pg_catalog.pg_publication_rel pr WHERE oid = ANY($)"
            ),
        )?;
        let version = self.session.version;
        let since = |major: u32, column: &str, otherwise: &str| match version >= major * 10_000 {
            true => format!("{column} AS {column}"),
            false => format!("{otherwise} AS {column}"),
        };
        let sql = format!(
            "SELECT tableoid, oid, subconninfo, subslotname, subsynccommit, subpublications, {}, {}, {}, {}, {}, {}, \
             {}, {} FROM pg_catalog.pg_subscription WHERE oid = ANY($)",
            since(14, "subbinary", "false"),
            since(14, "substream", "'f'"),
            since(15, "subtwophasestate", "'d'"),
            since(15, "subdisableonerr", "false"),
            since(16, "subpasswordrequired", "true"),
            // Up to 15 the owner's privileges were always used.
            since(16, "subrunasowner", "true"),
            since(16, "suborigin", "'any'"),
            since(17, "subfailover", "false"),
        );
        self.class(|kind| matches!(kind, Kind::Subscription), &sql)
    }
}
