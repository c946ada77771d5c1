//! Texts that only the server can give, fetched for all objects of a class at once.

use std::collections::HashMap;
use std::str::FromStr;

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;
use pgkeep_wire::Row;

use super::binary_upgrade::UpgradeFacts;
use super::records::Records;
use crate::dump::model::{Id, Kind, Model, Object, Parts, Privileges};
use crate::dump::options::DumpOptions;
use crate::dump::session::{Session, flag, letter, number, oid_array, oids, optional, text};

/// Sequences of servers before 18 are read by so many in one query.
const SEQUENCES_PER_QUERY: usize = 200;

/// By OID of the object.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) type_names: HashMap<u32, String>,
    pub(super) view_queries: HashMap<u32, String>,
    pub(super) rules: HashMap<u32, String>,
    pub(super) partition_keys: HashMap<u32, String>,
    pub(super) partition_bounds: HashMap<u32, String>,
    /// Server and options.
    pub(super) foreign_tables: HashMap<u32, (String, String)>,
    pub(super) statistics: HashMap<u32, String>,
    pub(super) functions: HashMap<u32, FunctionTexts>,
    pub(super) enum_labels: HashMap<u32, Vec<String>>,
    pub(super) ranges: HashMap<u32, RangeTexts>,
    pub(super) base_types: HashMap<u32, BaseTypeTexts>,
    pub(super) domains: HashMap<u32, DomainTexts>,
    pub(super) composites: HashMap<u32, Vec<CompositeColumn>>,
    pub(super) column_privileges: HashMap<u32, Vec<ColumnPrivileges>>,
    pub(super) depends_on_extension: HashMap<CatalogId, Vec<String>>,
    /// What only a binary upgrade needs.
    pub(super) upgrade: Option<UpgradeFacts>,
    /// Of classes that are put together from columns.
    pub(super) records: Records,
    /// Positions of sequences on servers before 18.
    pub(super) positions: HashMap<u32, (i64, bool)>,
}

/// A column and its privileges.
pub(super) type ColumnPrivileges = (String, Privileges);

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are columns of pg_proc")]
pub(super) struct FunctionTexts {
    pub(super) kind: u8,
    pub(super) arguments: String,
    pub(super) identity_arguments: String,
    pub(super) result: Option<String>,
    pub(super) returns_set: bool,
    pub(super) source: String,
    pub(super) binary: String,
    pub(super) sql_body: Option<String>,
    pub(super) language: String,
    pub(super) transforms: Vec<u32>,
    pub(super) volatility: u8,
    pub(super) strict: bool,
    pub(super) security_definer: bool,
    pub(super) leakproof: bool,
    pub(super) cost: String,
    pub(super) rows: String,
    pub(super) support: String,
    pub(super) parallel: u8,
    pub(super) configuration: String,
}

#[derive(Debug)]
pub(super) struct RangeTexts {
    pub(super) subtype: String,
    pub(super) multirange: Option<String>,
    /// Schema and name, when it is not the subtype's default.
    pub(super) operator_class: Option<(String, String)>,
    pub(super) collation: u32,
    pub(super) canonical: String,
    pub(super) difference: String,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are columns of pg_type")]
pub(super) struct BaseTypeTexts {
    pub(super) length: String,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) receive: Option<String>,
    pub(super) send: Option<String>,
    pub(super) modifier_in: Option<String>,
    pub(super) modifier_out: Option<String>,
    pub(super) analyze: Option<String>,
    pub(super) subscript: Option<String>,
    pub(super) collatable: bool,
    pub(super) default_expression: Option<String>,
    pub(super) default_literal: Option<String>,
    pub(super) category: String,
    pub(super) preferred: bool,
    pub(super) delimiter: String,
    pub(super) alignment: u8,
    pub(super) storage: u8,
    pub(super) by_value: bool,
}

#[derive(Debug)]
pub(super) struct DomainTexts {
    pub(super) base: String,
    pub(super) collation: u32,
    pub(super) not_null: bool,
    pub(super) default_expression: Option<String>,
    pub(super) default_literal: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct CompositeColumn {
    pub(super) number: i32,
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) collation: u32,
    pub(super) dropped: bool,
}

struct Fetcher<'a> {
    session: &'a mut Session,
    model: &'a Model,
    order: &'a [Id],
}

impl Texts {
    /// Fetches what the objects that are dumped need.
    pub(super) fn fetch(
        session: &mut Session,
        options: &DumpOptions,
        model: &Model,
        order: &[Id],
    ) -> Result<Texts> {
        let mut texts = Texts::default();
        let mut fetcher = Fetcher { session, model, order };
        if !fetcher.session.is_at_least(18) {
            texts.positions = fetcher.positions()?;
        }
        if !options.schema {
            return Ok(texts);
        }
        texts.type_names = fetcher.strings(TYPE_NAMES)?;
        fetcher.relations(&mut texts)?;
        fetcher.types(&mut texts)?;
        texts.functions = fetcher.functions()?;
        texts.records = Records::fetch(fetcher.session, model, order)?;
        if options.binary_upgrade {
            texts.upgrade = Some(UpgradeFacts::fetch(fetcher.session)?);
        }
        texts.depends_on_extension = fetcher.depends_on_extension()?;
        Ok(texts)
    }
}

/// The query for the names of all types.
pub(in crate::dump) const TYPE_NAMES: &str =
    "SELECT oid, pg_catalog.format_type(oid, NULL) AS text FROM pg_catalog.pg_type";

/// The query for the queries of all views that are defined, those included that become dummies: their rules need them.
/// Its text is the same whatever the order of the objects.
pub(in crate::dump) fn view_queries(model: &Model) -> Option<String> {
    let order: Vec<Id> = model.ids().collect();
    let views = wanted_oids(model, &order, |object| {
        object.wanted.has(Parts::DEFINITION)
            && matches!(&object.kind, Kind::Table(table) if b"vm".contains(&table.kind))
    })?;
    Some(computed(&views, "pg_catalog.pg_get_viewdef(oid)"))
}

/// A query of `oid` and `text` for the OIDs of `array`; `expression` is of `oid`.
fn computed(array: &str, expression: &str) -> String {
    format!("SELECT oid, {expression} AS text FROM unnest({array}) AS src(oid)")
}

/// OIDs of objects that are dumped and of which `which` holds, as an SQL array; `None` when there are none.
pub(super) fn wanted_oids(model: &Model, order: &[Id], which: impl Fn(&Object) -> bool) -> Option<String> {
    let objects = order.iter().map(|id| model.get(*id));
    let wanted = objects.filter(|object| !object.wanted.is_empty() && which(object));
    let mut oids = wanted.map(|object| object.catalog.oid).peekable();
    oids.peek()?;
    Some(oid_array(oids))
}

impl Fetcher<'_> {
    /// OIDs of objects that are dumped and of such a kind; `None` when there are none.
    fn wanted(&self, which: impl Fn(&Kind) -> bool) -> Option<String> {
        wanted_oids(self.model, self.order, |object| which(&object.kind))
    }

    fn tables(&self, kinds: &'static [u8]) -> Option<String> {
        self.wanted(|kind| matches!(kind, Kind::Table(table) if kinds.contains(&table.kind)))
    }

    fn types_of(&self, kind: u8) -> Option<String> {
        self.wanted(|of| matches!(of, Kind::Type(facts) if facts.kind == kind))
    }

    /// A query of `oid` and `text`.
    fn strings(&mut self, sql: &str) -> Result<HashMap<u32, String>> {
        let rows = self.session.query(sql)?;
        rows.iter().map(|row| Ok((row.parse("oid")?, text(row, "text")?))).collect()
    }

    /// As [`Self::strings`] for the OIDs of `array`; `expression` is of `oid`.
    fn computed(&mut self, array: Option<String>, expression: &str) -> Result<HashMap<u32, String>> {
        let Some(array) = array else { return Ok(HashMap::new()) };
        self.strings(&computed(&array, expression))
    }

    fn relations(&mut self, texts: &mut Texts) -> Result<()> {
        if let Some(query) = view_queries(self.model) {
            texts.view_queries = self.strings(&query)?;
        }
        texts.partition_keys = self.computed(self.tables(b"p"), "pg_catalog.pg_get_partkeydef(oid)")?;
        let rules = self.wanted(|kind| matches!(kind, Kind::Rule(rule) if rule.separate && !rule.is_view()));
        texts.rules = self.computed(rules, "pg_catalog.pg_get_ruledef(oid)")?;
        let statistics = self.wanted(|kind| matches!(kind, Kind::ExtendedStatistics { .. }));
        texts.statistics = self.computed(statistics, "pg_catalog.pg_get_statisticsobjdef(oid)")?;
        let partitions = self.order.iter().filter_map(|id| match self.model.get(*id).kind {
            Kind::TableAttach { partition, .. } => Some(self.model.get(partition).catalog.oid),
            _ => None,
        });
        let partitions = oid_array(partitions);
        texts.partition_bounds = self.strings(&format!(
            "SELECT c.oid, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS text \
             FROM unnest({partitions}) AS src(oid) JOIN pg_catalog.pg_class c ON c.oid = src.oid"
        ))?;
        if let Some(array) = self.tables(b"f") {
            let rows = self.session.query(&format!(
                "SELECT ft.ftrelid, fs.srvname, pg_catalog.array_to_string(ARRAY( \
                   SELECT pg_catalog.quote_ident(option_name) || ' ' || pg_catalog.quote_literal(option_value) \
                   FROM pg_catalog.pg_options_to_table(ftoptions) ORDER BY option_name), E',\\n    ') AS ftoptions \
                 FROM pg_catalog.pg_foreign_table ft JOIN pg_catalog.pg_foreign_server fs ON (fs.oid = ft.ftserver) \
                 WHERE ft.ftrelid = ANY({array})"
            ))?;
            for row in rows.iter() {
                let facts = (text(row, "srvname")?, text(row, "ftoptions")?);
                texts.foreign_tables.insert(row.parse("ftrelid")?, facts);
            }
        }
        let with_column_privileges =
            self.wanted(|kind| matches!(kind, Kind::Table(table) if table.has_column_privileges));
        if let Some(array) = with_column_privileges {
            let rows = self.session.query(&format!(
                "SELECT at.attrelid, at.attname, at.attacl, pip.initprivs, pip.privtype FROM pg_catalog.pg_attribute at \
                 LEFT JOIN pg_catalog.pg_init_privs pip ON (at.attrelid = pip.objoid \
                   AND pip.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND at.attnum = pip.objsubid) \
                 WHERE at.attrelid = ANY({array}) AND NOT at.attisdropped \
                 AND (at.attacl IS NOT NULL OR pip.initprivs IS NOT NULL) ORDER BY at.attrelid, at.attnum"
            ))?;
            for row in rows.iter() {
                let privileges = Privileges {
                    current: optional(row, "attacl")?,
                    default: "{}".to_owned(),
                    initial: optional(row, "initprivs")?,
                    initial_of_extension: row.optional("privtype")? == Some("e"),
                };
                let facts = (text(row, "attname")?, privileges);
                texts.column_privileges.entry(row.parse("attrelid")?).or_default().push(facts);
            }
        }
        Ok(())
    }

    fn types(&mut self, texts: &mut Texts) -> Result<()> {
        if let Some(array) = self.types_of(b'e') {
            let rows = self.session.query(&format!(
                "SELECT enumtypid, enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = ANY({array}) \
                 ORDER BY enumtypid, enumsortorder"
            ))?;
            for row in rows.iter() {
                texts.enum_labels.entry(row.parse("enumtypid")?).or_default().push(text(row, "enumlabel")?);
            }
        }
        if let Some(array) = self.types_of(b'r') {
            let multirange = match self.session.is_at_least(14) {
                true => "pg_catalog.format_type(rngmultitypid, NULL)",
                false => "NULL",
            };
            let rows = self.session.query(&format!(
                "SELECT rngtypid, {multirange} AS rngmultitype, \
                 pg_catalog.format_type(rngsubtype, NULL) AS rngsubtype, opc.opcname, \
                 (SELECT nspname FROM pg_catalog.pg_namespace nsp WHERE nsp.oid = opc.opcnamespace) AS opcnsp, \
                 opc.opcdefault, CASE WHEN rngcollation = st.typcollation THEN 0 ELSE rngcollation END AS collation, \
                 rngcanonical, rngsubdiff FROM pg_catalog.pg_range r, pg_catalog.pg_type st, \
                 pg_catalog.pg_opclass opc WHERE st.oid = rngsubtype AND opc.oid = rngsubopc \
                 AND rngtypid = ANY({array})"
            ))?;
            for row in rows.iter() {
                let class = (!flag(row, "opcdefault")?)
                    .then(|| -> Result<_> { Ok((text(row, "opcnsp")?, text(row, "opcname")?)) })
                    .transpose()?;
                let range = RangeTexts {
                    subtype: text(row, "rngsubtype")?,
                    multirange: optional(row, "rngmultitype")?,
                    operator_class: class,
                    collation: number(row, "collation")?,
                    canonical: text(row, "rngcanonical")?,
                    difference: text(row, "rngsubdiff")?,
                };
                texts.ranges.insert(row.parse("rngtypid")?, range);
            }
        }
        if let Some(array) = self.types_of(b'd') {
            let rows = self.session.query(&format!(
                "SELECT t.oid, t.typnotnull, pg_catalog.format_type(t.typbasetype, t.typtypmod) AS typdefn, \
                 pg_catalog.pg_get_expr(t.typdefaultbin, 'pg_catalog.pg_type'::pg_catalog.regclass) \
                   AS typdefaultbin, t.typdefault, \
                 CASE WHEN t.typcollation <> u.typcollation THEN t.typcollation ELSE 0 END AS typcollation \
                 FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type u ON (t.typbasetype = u.oid) \
                 WHERE t.oid = ANY({array})"
            ))?;
            for row in rows.iter() {
                let domain = DomainTexts {
                    base: text(row, "typdefn")?,
                    collation: number(row, "typcollation")?,
                    not_null: flag(row, "typnotnull")?,
                    default_expression: optional(row, "typdefaultbin")?,
                    default_literal: optional(row, "typdefault")?,
                };
                texts.domains.insert(row.parse("oid")?, domain);
            }
        }
        if let Some(array) = self.types_of(b'c') {
            let rows = self.session.query(&format!(
                "SELECT ct.oid, a.attname, a.attnum, a.attisdropped, pg_catalog.format_type(a.atttypid, a.atttypmod) AS atttypdefn, \
                 CASE WHEN a.attcollation <> at.typcollation THEN a.attcollation ELSE 0 END AS attcollation \
                 FROM pg_catalog.pg_type ct JOIN pg_catalog.pg_attribute a ON a.attrelid = ct.typrelid \
                 LEFT JOIN pg_catalog.pg_type at ON at.oid = a.atttypid \
                 WHERE ct.oid = ANY({array}) AND a.attnum > 0 ORDER BY ct.oid, a.attnum"
            ))?;
            for row in rows.iter() {
                let column = CompositeColumn {
                    number: row.parse("attnum")?,
                    name: text(row, "attname")?,
                    type_name: text(row, "atttypdefn")?,
                    collation: number(row, "attcollation")?,
                    dropped: flag(row, "attisdropped")?,
                };
                texts.composites.entry(row.parse("oid")?).or_default().push(column);
            }
        }
        if let Some(array) = self.types_of(b'b') {
            texts.base_types = self.base_types(&array)?;
        }
        Ok(())
    }

    fn base_types(&mut self, array: &str) -> Result<HashMap<u32, BaseTypeTexts>> {
        let subscript = match self.session.is_at_least(14) {
            true => "NULLIF(typsubscript::pg_catalog.oid, 0)::pg_catalog.regproc",
            false => "NULL",
        };
        let rows = self.session.query(&format!(
            "SELECT oid, typlen, typinput, typoutput, NULLIF(typreceive::pg_catalog.oid, 0)::pg_catalog.regproc \
               AS typreceive, NULLIF(typsend::pg_catalog.oid, 0)::pg_catalog.regproc AS typsend, \
             NULLIF(typanalyze::pg_catalog.oid, 0)::pg_catalog.regproc AS typanalyze, \
             NULLIF(typmodin::pg_catalog.oid, 0)::pg_catalog.regproc AS typmodin, \
             NULLIF(typmodout::pg_catalog.oid, 0)::pg_catalog.regproc AS typmodout, {subscript} AS typsubscript, \
             typdelim, typbyval, typalign, typstorage, typcategory, typispreferred, \
             (typcollation <> 0) AS typcollatable, pg_catalog.pg_get_expr(typdefaultbin, 0) AS typdefaultbin, \
             typdefault FROM pg_catalog.pg_type WHERE oid = ANY({array})"
        ))?;
        let base_type = |row: Row<'_>| -> Result<BaseTypeTexts> {
            Ok(BaseTypeTexts {
                length: text(row, "typlen")?,
                input: text(row, "typinput")?,
                output: text(row, "typoutput")?,
                receive: optional(row, "typreceive")?,
                send: optional(row, "typsend")?,
                modifier_in: optional(row, "typmodin")?,
                modifier_out: optional(row, "typmodout")?,
                analyze: optional(row, "typanalyze")?,
                subscript: optional(row, "typsubscript")?,
                collatable: flag(row, "typcollatable")?,
                default_expression: optional(row, "typdefaultbin")?,
                default_literal: optional(row, "typdefault")?,
                category: text(row, "typcategory")?,
                preferred: flag(row, "typispreferred")?,
                delimiter: text(row, "typdelim")?,
                alignment: letter(row, "typalign")?,
                storage: letter(row, "typstorage")?,
                by_value: flag(row, "typbyval")?,
            })
        };
        rows.iter().map(|row| Ok((row.parse("oid")?, base_type(row)?))).collect()
    }

    fn functions(&mut self) -> Result<HashMap<u32, FunctionTexts>> {
        let Some(array) = self.wanted(|kind| matches!(kind, Kind::Function(_))) else {
            return Ok(HashMap::new());
        };
        let body = match self.session.is_at_least(14) {
            true => "pg_catalog.pg_get_function_sqlbody(p.oid)",
            false => "NULL",
        };
        let rows = self.session.query(&format!(
            "SELECT p.oid, proretset, prosrc, probin, provolatile, proisstrict, prosecdef, lanname, proconfig, \
             procost, prorows, pg_catalog.pg_get_function_arguments(p.oid) AS funcargs, \
             pg_catalog.pg_get_function_identity_arguments(p.oid) AS funciargs, \
             pg_catalog.pg_get_function_result(p.oid) AS funcresult, proleakproof, \
             pg_catalog.array_to_string(protrftypes, ' ') AS protrftypes, proparallel, prokind, prosupport, \
             {body} AS prosqlbody FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
             WHERE p.oid = ANY({array})"
        ))?;
        let function = |row: Row<'_>| -> Result<FunctionTexts> {
            Ok(FunctionTexts {
                kind: letter(row, "prokind")?,
                arguments: text(row, "funcargs")?,
                identity_arguments: text(row, "funciargs")?,
                result: optional(row, "funcresult")?,
                returns_set: flag(row, "proretset")?,
                source: text(row, "prosrc")?,
                binary: text(row, "probin")?,
                sql_body: optional(row, "prosqlbody")?,
                language: text(row, "lanname")?,
                transforms: oids(&text(row, "protrftypes")?),
                volatility: letter(row, "provolatile")?,
                strict: flag(row, "proisstrict")?,
                security_definer: flag(row, "prosecdef")?,
                leakproof: flag(row, "proleakproof")?,
                cost: text(row, "procost")?,
                rows: text(row, "prorows")?,
                support: text(row, "prosupport")?,
                parallel: letter(row, "proparallel")?,
                configuration: text(row, "proconfig")?,
            })
        };
        rows.iter().map(|row| Ok((row.parse("oid")?, function(row)?))).collect()
    }

    fn depends_on_extension(&mut self) -> Result<HashMap<CatalogId, Vec<String>>> {
        let rows = self.session.query(
            "SELECT d.classid, d.objid, e.extname FROM pg_catalog.pg_depend d, pg_catalog.pg_extension e \
             WHERE d.refobjid = e.oid AND deptype = 'x' \
             AND refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass",
        )?;
        let mut found: HashMap<CatalogId, Vec<String>> = HashMap::new();
        for row in rows.iter() {
            let object = CatalogId { table_oid: row.parse("classid")?, oid: row.parse("objid")? };
            found.entry(object).or_default().push(text(row, "extname")?);
        }
        Ok(found)
    }

    /// Positions of sequences, one by one in one query: before 18 the server has no function for it.
    fn positions(&mut self) -> Result<HashMap<u32, (i64, bool)>> {
        let sequences: Vec<(u32, String)> = self
            .order
            .iter()
            .map(|id| self.model.get(*id))
            .filter(|object| object.wanted.has(Parts::DATA))
            .filter_map(|object| match &object.kind {
                Kind::SequenceSet(data) => {
                    let table = self.model.get(data.table);
                    let schema = self.model.schema_name(data.table);
                    Some((table.catalog.oid, self.session.quoting.qualified(schema, &table.name)))
                }
                _ => None,
            })
            .collect();
        let mut positions = HashMap::new();
        for some in sequences.chunks(SEQUENCES_PER_QUERY) {
            let queries: Vec<String> = some
                .iter()
                .map(|(oid, name)| format!("SELECT {oid} AS oid, last_value, is_called FROM {name}"))
                .collect();
            let rows = self.session.query(&queries.join(" UNION ALL "))?;
            for row in rows.iter() {
                positions.insert(parse(row, "oid")?, (parse(row, "last_value")?, row.boolean("is_called")?));
            }
        }
        Ok(positions)
    }
}

fn parse<T: FromStr>(row: Row<'_>, column: &str) -> Result<T> {
    Ok(row.parse(column)?)
}
