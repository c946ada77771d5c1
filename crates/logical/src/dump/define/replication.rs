//! Publications and subscriptions.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};
use crate::dump::sql::parse_array;

impl Definer<'_> {
    pub(super) fn publication(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let all = if record.flag("puballtables") { " FOR ALL TABLES" } else { "" };
        let operations: Vec<&str> = [
            ("pubinsert", "insert"),
            ("pubupdate", "update"),
            ("pubdelete", "delete"),
            ("pubtruncate", "truncate"),
        ]
        .into_iter()
        .filter(|(column, _)| record.flag(column))
        .map(|(_, word)| word)
        .collect();
        let mut sql =
            format!("CREATE PUBLICATION {}{all} WITH (publish = '{}'", self.name(id), operations.join(", "));
        if record.flag("pubviaroot") {
            sql.push_str(", publish_via_partition_root = true");
        }
        if record.letter("pubgencols") == b's' {
            sql.push_str(", publish_generated_columns = stored");
        }
        sql.push_str(");\n");
        self.named_object(id, "PUBLICATION", sql);
        Ok(())
    }

    pub(super) fn publication_table(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::PublicationTable { publication, table } = object.kind else { return Ok(()) };
        if !self.wants(id, Parts::DEFINITION) {
            return Ok(());
        }
        let record = self.texts.records.of(object.catalog);
        let publication = self.model.get(publication);
        let mut sql = format!(
            "ALTER PUBLICATION {} ADD TABLE ONLY {}",
            self.quoting.name(&publication.name),
            self.qualified(table)
        );
        if let Some(columns) = record.get("columns") {
            let columns =
                parse_array(columns).ok_or_else(|| ToolError::catalog("could not parse prattrs array"))?;
            let columns: Vec<String> = columns.iter().map(|column| self.quoting.name(column)).collect();
            sql.push_str(&format!(" ({})", columns.join(", ")));
        }
        if let Some(condition) = record.get("qual") {
            sql.push_str(&format!(" WHERE ({condition})"));
        }
        sql.push_str(";\n");
        let draft = Draft {
            tag: format!("{} {}", publication.name, object.name),
            definition: Some(sql),
            section: Some(Section::PostData),
            owner: Some(publication.owner.clone()),
            ..self.draft(id, "PUBLICATION TABLE")
        };
        self.add(draft);
        Ok(())
    }

    pub(super) fn publication_schema(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::PublicationSchema { publication } = object.kind else { return Ok(()) };
        if !self.wants(id, Parts::DEFINITION) {
            return Ok(());
        }
        let publication = self.model.get(publication);
        let draft = Draft {
            tag: format!("{} {}", publication.name, object.name),
            definition: Some(format!(
                "ALTER PUBLICATION {} ADD TABLES IN SCHEMA {};\n",
                self.quoting.name(&publication.name),
                self.quoting.name(&object.name)
            )),
            section: Some(Section::PostData),
            schema: Some(object.name.clone()),
            owner: Some(publication.owner.clone()),
            ..self.draft(id, "PUBLICATION TABLES IN SCHEMA")
        };
        self.add(draft);
        Ok(())
    }

    pub(super) fn subscription_table(&mut self, id: Id) {
        let Kind::SubscriptionTable(facts) = &self.model.get(id).kind else { return };
        let subscription = self.model.get(facts.subscription);
        if !self.wants(id, Parts::DEFINITION) || !subscription.wanted.has(Parts::DEFINITION) {
            return;
        }
        let position = facts.position.as_deref().filter(|position| !position.is_empty());
        let position = position.map_or_else(|| "NULL".to_owned(), |position| format!("'{position}'"));
        let draft = Draft {
            tag: format!("{} {}", subscription.name, self.model.get(facts.table).name),
            definition: Some(format!(
                "\n-- For binary upgrade, must preserve the subscriber table.\n\
                 SELECT pg_catalog.binary_upgrade_add_sub_rel_state({}, {}, '{}', {position});\n",
                self.quoting.literal(&subscription.name),
                self.model.get(facts.table).catalog.oid,
                char::from(facts.state)
            )),
            section: Some(Section::PostData),
            owner: Some(subscription.owner.clone()),
            ..self.draft(id, "SUBSCRIPTION TABLE")
        };
        self.add(draft);
    }

    /// A subscription is made without a connection to its publisher: whoever restores decides when it starts.
    pub(super) fn subscription(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let publications = parse_array(record.text("subpublications"))
            .ok_or_else(|| ToolError::catalog("could not parse subpublications array"))?;
        let publications: Vec<String> = publications.iter().map(|name| self.quoting.name(name)).collect();
        let slot = record.get("subslotname").map_or("NONE".to_owned(), |slot| self.quoting.literal(slot));
        let mut sql = format!(
            "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (connect = false, slot_name = {slot}",
            self.name(id),
            self.quoting.literal(record.text("subconninfo")),
            publications.join(", ")
        );
        let mut option = |condition: bool, text: &str| {
            if condition {
                sql.push_str(&format!(", {text}"));
            }
        };
        option(record.flag("subbinary"), "binary = true");
        option(
            true,
            match record.letter("substream") {
                b't' => "streaming = on",
                b'p' => "streaming = parallel",
                _ => "streaming = off",
            },
        );
        option(record.letter("subtwophasestate") != b'd', "two_phase = on");
        option(record.flag("subdisableonerr"), "disable_on_error = true");
        option(!record.flag("subpasswordrequired"), "password_required = false");
        option(record.flag("subrunasowner"), "run_as_owner = true");
        option(record.flag("subfailover"), "failover = true");
        let commit = record.text("subsynccommit");
        option(commit != "off", &format!("synchronous_commit = {}", self.quoting.name(commit)));
        let origin = record.text("suborigin");
        option(!origin.eq_ignore_ascii_case("any"), &format!("origin = {origin}"));
        sql.push_str(");\n");
        sql.push_str(&self.subscription_state(id));
        self.named_object(id, "SUBSCRIPTION", sql);
        Ok(())
    }
}
