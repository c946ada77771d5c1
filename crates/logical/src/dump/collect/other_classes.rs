//! Classes that are read alike: languages, operators and what belongs to them, text search, foreign data, collations,
//! conversions, casts, transforms, event triggers, default privileges.

use std::collections::HashMap;

use pgkeep_tool::Result;

use super::{Collector, catalog_id};
use crate::dump::model::{Id, Kind, Parts, catalog};
use crate::dump::session::{letter, number, text};

/// A class whose rows all are alike: the column of the schema and that of the owner where it has one.
struct Class {
    sql: &'static str,
    in_schema: bool,
    owned: bool,
}

impl Class {
    const fn in_schema(sql: &'static str) -> Class {
        Class { sql, in_schema: true, owned: true }
    }
}

impl Collector<'_> {
    /// Reads a class; `name`, `schema` and `owner` are columns of the query.
    fn class(
        &mut self,
        class: &Class,
        mut kind: impl FnMut(pgkeep_wire::Row<'_>) -> Result<Kind>,
    ) -> Result<Vec<Id>> {
        let rows = self.session.query(class.sql)?;
        let mut ids = Vec::new();
        for row in rows.iter() {
            let schema = if class.in_schema { Some(self.schema(row.parse("schema")?)?) } else { None };
            let id = self.model.add(catalog_id(row)?, row.text("name")?, schema, kind(row)?);
            if class.owned {
                self.owner(id, row.parse("owner")?)?;
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn select_all(&mut self, ids: &[Id]) {
        for id in ids {
            self.select(*id);
        }
    }

    pub(super) fn languages(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT tableoid, oid, lanname, lanacl, pg_catalog.acldefault('l', lanowner) AS acldefault, lanowner \
             FROM pg_catalog.pg_language WHERE lanispl ORDER BY oid",
        )?;
        for row in rows.iter() {
            let id = self.model.add(catalog_id(row)?, row.text("lanname")?, None, Kind::Language);
            self.owner(id, row.parse("lanowner")?)?;
            self.select_unless_built_in(id, Parts::PRIVILEGES);
            self.privileges(id, row, "lanacl")?;
        }
        Ok(())
    }

    pub(super) fn operators(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, oprname AS name, oprnamespace AS schema, oprowner AS owner, oprkind, oprleft, \
             oprright FROM pg_catalog.pg_operator",
        );
        let ids = self.class(&class, |row| {
            Ok(Kind::Operator {
                kind: letter(row, "oprkind")?,
                left: number(row, "oprleft")?,
                right: number(row, "oprright")?,
            })
        })?;
        self.select_all(&ids);
        Ok(())
    }

    pub(super) fn access_methods(&mut self) -> Result<()> {
        let class = Class {
            sql: "SELECT tableoid, oid, amname AS name FROM pg_catalog.pg_am",
            in_schema: false,
            owned: false,
        };
        for id in self.class(&class, |_| Ok(Kind::AccessMethod))? {
            self.select_unless_built_in(id, Parts::NONE);
        }
        Ok(())
    }

    pub(super) fn operator_classes(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, opcname AS name, opcnamespace AS schema, opcowner AS owner, opcmethod \
             FROM pg_catalog.pg_opclass",
        );
        let ids = self.class(&class, |row| Ok(Kind::OperatorClass { method: number(row, "opcmethod")? }))?;
        self.select_all(&ids);
        Ok(())
    }

    pub(super) fn operator_families(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, opfname AS name, opfnamespace AS schema, opfowner AS owner, opfmethod \
             FROM pg_catalog.pg_opfamily",
        );
        let ids = self.class(&class, |row| Ok(Kind::OperatorFamily { method: number(row, "opfmethod")? }))?;
        self.select_all(&ids);
        Ok(())
    }

    pub(super) fn text_search(&mut self) -> Result<()> {
        let parsers = Class {
            sql: "SELECT tableoid, oid, prsname AS name, prsnamespace AS schema FROM pg_catalog.pg_ts_parser",
            in_schema: true,
            owned: false,
        };
        let templates = Class {
            sql: "SELECT tableoid, oid, tmplname AS name, tmplnamespace AS schema FROM pg_catalog.pg_ts_template",
            in_schema: true,
            owned: false,
        };
        let dictionaries = Class::in_schema(
            "SELECT tableoid, oid, dictname AS name, dictnamespace AS schema, dictowner AS owner \
             FROM pg_catalog.pg_ts_dict",
        );
        let configurations = Class::in_schema(
            "SELECT tableoid, oid, cfgname AS name, cfgnamespace AS schema, cfgowner AS owner \
             FROM pg_catalog.pg_ts_config",
        );
        let mut ids = self.class(&parsers, |_| Ok(Kind::TextSearchParser))?;
        ids.extend(self.class(&templates, |_| Ok(Kind::TextSearchTemplate))?);
        ids.extend(self.class(&dictionaries, |_| Ok(Kind::TextSearchDictionary))?);
        ids.extend(self.class(&configurations, |_| Ok(Kind::TextSearchConfiguration))?);
        self.select_all(&ids);
        Ok(())
    }

    pub(super) fn foreign_data_wrappers(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT tableoid, oid, fdwname, fdwowner, fdwacl, pg_catalog.acldefault('F', fdwowner) AS acldefault \
             FROM pg_catalog.pg_foreign_data_wrapper",
        )?;
        for row in rows.iter() {
            let id = self.model.add(catalog_id(row)?, row.text("fdwname")?, None, Kind::ForeignDataWrapper);
            self.owner(id, row.parse("fdwowner")?)?;
            self.select(id);
            self.privileges(id, row, "fdwacl")?;
        }
        Ok(())
    }

    pub(super) fn foreign_servers(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT tableoid, oid, srvname, srvowner, srvacl, pg_catalog.acldefault('S', srvowner) AS acldefault \
             FROM pg_catalog.pg_foreign_server",
        )?;
        for row in rows.iter() {
            let id = self.model.add(catalog_id(row)?, row.text("srvname")?, None, Kind::ForeignServer);
            self.owner(id, row.parse("srvowner")?)?;
            self.select(id);
            self.model.get_mut(id).present.add(Parts::USER_MAPPING);
            self.privileges(id, row, "srvacl")?;
        }
        Ok(())
    }

    pub(super) fn default_privileges(&mut self) -> Result<()> {
        // Entries of a schema only add privileges; the others take the place of the built-in defaults.
        let rows = self.session.query(
            "SELECT oid, tableoid, defaclrole, defaclnamespace, defaclobjtype, defaclacl, \
             CASE WHEN defaclnamespace = 0 THEN pg_catalog.acldefault(CASE WHEN defaclobjtype = 'S' \
               THEN 's'::\"char\" ELSE defaclobjtype END, defaclrole) ELSE '{}' END AS acldefault \
             FROM pg_catalog.pg_default_acl",
        )?;
        for row in rows.iter() {
            let schema = match number::<u32>(row, "defaclnamespace")? {
                0 => None,
                oid => Some(self.schema(oid)?),
            };
            let role = self.model.role(row.parse("defaclrole")?)?;
            let name = text(row, "defaclobjtype")?;
            let id = self.model.add(catalog_id(row)?, name, schema, Kind::DefaultPrivileges { role });
            self.privileges(id, row, "defaclacl")?;
            self.model.get_mut(id).present.add(Parts::PRIVILEGES);
            self.select_default_privileges(id);
        }
        Ok(())
    }

    pub(super) fn collations(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, collname AS name, collnamespace AS schema, collowner AS owner, collencoding \
             FROM pg_catalog.pg_collation",
        );
        let ids = self.class(&class, |row| Ok(Kind::Collation { encoding: number(row, "collencoding")? }))?;
        self.select_all(&ids);
        Ok(())
    }

    pub(super) fn conversions(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, conname AS name, connamespace AS schema, conowner AS owner \
             FROM pg_catalog.pg_conversion",
        );
        let ids = self.class(&class, |_| Ok(Kind::Conversion))?;
        self.select_all(&ids);
        Ok(())
    }

    /// Names of casts are made up for the order: those of both types.
    pub(super) fn casts(&mut self) -> Result<()> {
        // The cast of a range to its multirange comes into being with them.
        let except = if self.session.is_at_least(14) {
            "WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_range r WHERE c.castsource = r.rngtypid \
             AND c.casttarget = r.rngmultitypid)"
        } else {
            ""
        };
        let rows = self.session.query(&format!(
            "SELECT tableoid, oid, castsource, casttarget FROM pg_catalog.pg_cast c {except} ORDER BY 3, 4"
        ))?;
        for row in rows.iter() {
            let (source, target) = (row.parse("castsource")?, row.parse("casttarget")?);
            let name = self.joined_names(&[source, target], "");
            let id = self.model.add(catalog_id(row)?, name, None, Kind::Cast);
            self.select_unless_built_in(id, Parts::NONE);
        }
        Ok(())
    }

    pub(super) fn transforms(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT t.tableoid, t.oid, t.trftype, l.lanname FROM pg_catalog.pg_transform t \
             JOIN pg_catalog.pg_language l ON l.oid = t.trflang ORDER BY t.trftype, t.trflang",
        )?;
        for row in rows.iter() {
            let language = self.session.quoting.name(row.text("lanname")?);
            let name = self.joined_names(&[row.parse("trftype")?], &language);
            let id = self.model.add(catalog_id(row)?, name, None, Kind::Transform);
            self.select(id);
        }
        Ok(())
    }

    fn joined_names(&self, types: &[u32], last: &str) -> String {
        let names: Option<Vec<&str>> = types
            .iter()
            .map(|oid| self.model.find(catalog::TYPE, *oid).map(|id| self.model.get(id).name.as_str()))
            .collect();
        let mut names = names.unwrap_or_default();
        if !names.is_empty() && !last.is_empty() {
            names.push(last);
        }
        names.join(" ")
    }

    pub(super) fn event_triggers(&mut self) -> Result<()> {
        let class = Class {
            sql: "SELECT tableoid, oid, evtname AS name, evtowner AS owner FROM pg_catalog.pg_event_trigger \
                  ORDER BY oid",
            in_schema: false,
            owned: true,
        };
        let ids = self.class(&class, |_| Ok(Kind::EventTrigger))?;
        self.select_all(&ids);
        Ok(())
    }

    /// Extended statistics follow their table.
    pub(super) fn extended_statistics(&mut self) -> Result<()> {
        let class = Class::in_schema(
            "SELECT tableoid, oid, stxname AS name, stxnamespace AS schema, stxowner AS owner, stxrelid, \
             COALESCE(stxstattarget, -1) AS stxstattarget FROM pg_catalog.pg_statistic_ext",
        );
        let mut tables = HashMap::new();
        let ids = self.class(&class, |row| {
            tables.insert(row.parse::<u32>("oid")?, row.parse::<u32>("stxrelid")?);
            Ok(Kind::ExtendedStatistics { target: row.parse("stxstattarget")? })
        })?;
        for id in ids {
            let oid = self.model.get(id).catalog.oid;
            let table = tables.get(&oid).and_then(|table| self.model.find_table(*table));
            self.select_extended_statistics(id, table);
        }
        Ok(())
    }
}
