//! Policies of row security; publications and subscriptions.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::{Result, ToolError};

use super::{Collector, catalog_id};
use crate::dump::model::{Kind, Parts, SubscriptionTable, catalog};
use crate::dump::session::{letter, number, oid_array, optional, text};

impl Collector<'_> {
    pub(super) fn policies(&mut self) -> Result<()> {
        if self.options.no_policies {
            return Ok(());
        }
        let mut tables = Vec::new();
        for id in self.model.tables.clone() {
            let table = self.model.table(id);
            if !self.model.get(id).wanted.has(Parts::POLICY) || !matches!(table.kind, b'r' | b'p') {
                continue;
            }
            let row_security = table.row_security;
            let object = self.model.get_mut(id);
            let (oid, schema, name) = (object.catalog.oid, object.schema, object.name.clone());
            tables.push(oid);
            if row_security {
                object.present.add(Parts::POLICY);
                // Without a catalog, so that no dependency is taken for this one's.
                let policy = Kind::Policy { table: id, name: None };
                self.model.add(CatalogId { table_oid: 0, oid }, name, schema, policy);
            }
        }
        let rows = self.session.query(&format!(
            "SELECT pol.oid, pol.tableoid, pol.polrelid, pol.polname FROM unnest({}) AS src(tbloid) \
             JOIN pg_catalog.pg_policy pol ON (src.tbloid = pol.polrelid)",
            oid_array(tables)
        ))?;
        for row in rows.iter() {
            let Some(table) = self.model.find_table(row.parse("polrelid")?) else { continue };
            let object = self.model.get_mut(table);
            object.present.add(Parts::POLICY);
            let schema = object.schema;
            let name = text(row, "polname")?;
            let policy = Kind::Policy { table, name: Some(name.clone()) };
            self.model.add(catalog_id(row)?, name, schema, policy);
        }
        Ok(())
    }

    pub(super) fn publications(&mut self) -> Result<()> {
        if self.options.no_publications {
            return Ok(());
        }
        let rows =
            self.session.query("SELECT tableoid, oid, pubname, pubowner FROM pg_catalog.pg_publication")?;
        for row in rows.iter() {
            let id = self.model.add(catalog_id(row)?, row.text("pubname")?, None, Kind::Publication);
            self.owner(id, row.parse("pubowner")?)?;
            self.select(id);
        }
        let rows = self
            .session
            .query("SELECT tableoid, oid, prpubid, prrelid FROM pg_catalog.pg_publication_rel")?;
        for row in rows.iter() {
            let publication = self.model.find(catalog::PUBLICATION, number(row, "prpubid")?);
            let table = self.model.find_table(number(row, "prrelid")?);
            let (Some(publication), Some(table)) = (publication, table) else { continue };
            let object = self.model.get(table);
            let (name, schema) = (object.name.clone(), object.schema);
            let id =
                self.model.add(catalog_id(row)?, name, schema, Kind::PublicationTable { publication, table });
            self.select_publication_member(id);
        }
        if !self.session.is_at_least(15) {
            return Ok(());
        }
        let rows = self
            .session
            .query("SELECT tableoid, oid, pnpubid, pnnspid FROM pg_catalog.pg_publication_namespace")?;
        for row in rows.iter() {
            let publication = self.model.find(catalog::PUBLICATION, number(row, "pnpubid")?);
            let schema = self.model.find(catalog::NAMESPACE, number(row, "pnnspid")?);
            let (Some(publication), Some(schema)) = (publication, schema) else { continue };
            let name = self.model.get(schema).name.clone();
            let id = self.model.add(catalog_id(row)?, name, None, Kind::PublicationSchema { publication });
            self.select_publication_member(id);
        }
        Ok(())
    }

    pub(super) fn subscriptions(&mut self) -> Result<()> {
        if self.options.no_subscriptions {
            return Ok(());
        }
        let of_database = "WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database \
                           WHERE datname = pg_catalog.current_database())";
        // Only superusers see their connection strings.
        if self.session.connection().parameter("is_superuser") != Some("on") {
            let count = self
                .session
                .one(&format!("SELECT pg_catalog.count(*) FROM pg_catalog.pg_subscription {of_database}"))?;
            if count != "0" {
                self.warnings
                    .push("subscriptions not dumped because current user is not a superuser".to_owned());
            }
            return Ok(());
        }
        let rows = self.session.query(&format!(
            "SELECT tableoid, oid, subname, subowner FROM pg_catalog.pg_subscription {of_database}"
        ))?;
        for row in rows.iter() {
            let id = self.model.add(catalog_id(row)?, row.text("subname")?, None, Kind::Subscription);
            self.owner(id, row.parse("subowner")?)?;
            self.select(id);
        }
        Ok(())
    }

    /// How far each table is, which goes on after a binary upgrade.
    pub(super) fn subscription_tables(&mut self) -> Result<()> {
        let options = self.options;
        if options.no_subscriptions || !options.binary_upgrade || !self.session.is_at_least(17) {
            return Ok(());
        }
        let rows = self.session.query(
            "SELECT srsubid, srrelid, srsubstate, srsublsn FROM pg_catalog.pg_subscription_rel ORDER BY srsubid",
        )?;
        for row in rows.iter() {
            let (subscription_oid, table_oid): (u32, u32) = (row.parse("srsubid")?, row.parse("srrelid")?);
            let missing =
                |what: &str, oid: u32| ToolError::catalog(format!("{what} with OID {oid} does not exist"));
            let subscription = self.model.find(catalog::SUBSCRIPTION, subscription_oid);
            let subscription = subscription.ok_or_else(|| missing("subscription", subscription_oid))?;
            let table = self.model.find_table(table_oid).ok_or_else(|| missing("table", table_oid))?;
            let facts = SubscriptionTable {
                subscription,
                table,
                state: letter(row, "srsubstate")?,
                position: optional(row, "srsublsn")?,
            };
            let object = self.model.get(table);
            let (name, schema) = (object.name.clone(), object.schema);
            // As stock's, which is no row of a catalog.
            let row_id = CatalogId { table_oid, oid: subscription_oid };
            let id = self.model.add(row_id, name, schema, Kind::SubscriptionTable(facts));
            self.select(id);
        }
        Ok(())
    }
}
