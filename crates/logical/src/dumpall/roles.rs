//! Roles with their attributes and settings, and what they may do to parameters. Roles named `pg_…` are the server's own.

use std::collections::HashMap;

use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::Row;

use super::ClusterDumpOptions;
use crate::dump::privileges::{self, Subject};
use crate::dump::session::{Session, flag};
use crate::dump::sql::one_line;

/// Commands that drop all roles.
pub(super) fn drops(session: &mut Session, options: &ClusterDumpOptions) -> Result<String> {
    let rows = session.query(&format!(
        "SELECT rolname FROM {} WHERE rolname !~ '^pg_' ORDER BY 1",
        options.role_catalog()
    ))?;
    let mut script = String::new();
    if !rows.is_empty() {
        script.push_str("--\n-- Drop roles\n--\n\n");
    }
    for row in rows.iter() {
        let name = session.quoting.name(row.text("rolname")?);
        script.push_str(&format!("DROP ROLE {}{name};\n", options.if_exists()));
    }
    script.push_str("\n\n");
    Ok(script)
}

/// Commands that make all roles, and after all of them their settings, which may name other roles.
pub(super) fn roles(
    session: &mut Session,
    options: &ClusterDumpOptions,
    reporter: &dyn Reporter,
) -> Result<String> {
    let rows = session.query(&format!(
        "SELECT oid, rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolconnlimit, \
         rolpassword, rolvaliduntil, rolreplication, rolbypassrls, \
         pg_catalog.shobj_description(oid, 'pg_authid') AS rolcomment, rolname = current_user AS is_current_user \
         FROM {} WHERE rolname !~ '^pg_' ORDER BY 2",
        options.role_catalog()
    ))?;
    let mut labels = labels(session, options, "pg_authid", "ROLE")?;
    let settings = settings(session)?;
    let mut script = String::new();
    let mut configurations = String::new();
    if !rows.is_empty() {
        script.push_str("--\n-- Roles\n--\n\n");
        configurations.push_str("\n--\n-- User Configurations\n--\n");
    }
    for row in rows.iter() {
        let (oid, role) = (row.parse::<u32>("oid")?, row.text("rolname")?);
        // The condition above is the server's word, which is not trusted.
        if role.starts_with("pg_") {
            reporter.warning(&format!("role name starting with \"pg_\" skipped ({role})"));
            continue;
        }
        let name = session.quoting.name(role);
        script.push_str(&definition(session, options, row)?);
        if let Some(comment) = row.optional("rolcomment")?.filter(|_| !options.no_comments) {
            let comment = session.quoting.portable_literal(comment);
            script.push_str(&format!("COMMENT ON ROLE {name} IS {comment};\n"));
        }
        script.push_str(&labels.remove(&oid).map(|labels| labels.commands(&name)).unwrap_or_default());
        if let Some(items) = settings.get(&oid) {
            configurations.push_str(&format!("\n--\n-- User Config \"{}\"\n--\n\n", one_line(role)));
            let commands =
                items.iter().filter_map(|item| session.quoting.alter_setting(&format!("ROLE {name}"), item));
            configurations.extend(commands);
        }
    }
    Ok(script + &configurations + "\n\n")
}

/// The commands that make a role. Attributes are set by a command of their own, so that they are right when the role is
/// there already, as the one who restores always is.
fn definition(session: &Session, options: &ClusterDumpOptions, row: Row<'_>) -> Result<String> {
    let name = session.quoting.name(row.text("rolname")?);
    let mut sql = String::new();
    if options.binary_upgrade {
        sql.push_str(&format!(
            "\n-- For binary upgrade, must preserve pg_authid.oid\n\
             SELECT pg_catalog.binary_upgrade_set_next_pg_authid_oid('{}'::pg_catalog.oid);\n\n",
            row.parse::<u32>("oid")?
        ));
    }
    // An upgrade has made the role that runs it.
    if !options.binary_upgrade || !flag(row, "is_current_user")? {
        sql.push_str(&format!("CREATE ROLE {name};\n"));
    }
    sql.push_str(&format!("ALTER ROLE {name} WITH"));
    for (column, word) in [
        ("rolsuper", "SUPERUSER"),
        ("rolinherit", "INHERIT"),
        ("rolcreaterole", "CREATEROLE"),
        ("rolcreatedb", "CREATEDB"),
        ("rolcanlogin", "LOGIN"),
        ("rolreplication", "REPLICATION"),
        ("rolbypassrls", "BYPASSRLS"),
    ] {
        sql.push_str(if flag(row, column)? { " " } else { " NO" });
        sql.push_str(word);
    }
    let limit: i32 = row.parse("rolconnlimit")?;
    if limit != -1 {
        sql.push_str(&format!(" CONNECTION LIMIT {limit}"));
    }
    if let Some(password) = row.optional("rolpassword")?.filter(|_| !options.no_role_passwords) {
        sql.push_str(&format!(" PASSWORD {}", session.quoting.portable_literal(password)));
    }
    if let Some(until) = row.optional("rolvaliduntil")? {
        sql.push_str(&format!(" VALID UNTIL {}", session.quoting.literal(until)));
    }
    sql.push_str(";\n");
    Ok(sql)
}

/// The settings of each role in all databases, in the order in which they were made.
fn settings(session: &mut Session) -> Result<HashMap<u32, Vec<String>>> {
    let rows = session.query(
        "SELECT setrole, item FROM pg_catalog.pg_db_role_setting, \
         LATERAL pg_catalog.unnest(setconfig) WITH ORDINALITY AS items (item, number) \
         WHERE setdatabase = 0 ORDER BY setrole, number",
    )?;
    let mut settings: HashMap<u32, Vec<String>> = HashMap::new();
    for row in rows.iter() {
        settings.entry(row.parse("setrole")?).or_default().push(row.text("item")?.to_owned());
    }
    Ok(settings)
}

/// Security labels of one object.
#[derive(Debug, Default)]
pub(super) struct Labels {
    kind: &'static str,
    /// Provider and label, quoted.
    labels: Vec<(String, String)>,
}

impl Labels {
    /// The commands for the object of this name, quoted.
    pub(super) fn commands(&self, name: &str) -> String {
        let command = |(provider, label): &(String, String)| {
            format!("SECURITY LABEL FOR {provider} ON {} {name} IS {label};\n", self.kind)
        };
        self.labels.iter().map(command).collect()
    }
}

/// The security labels of all objects of a class, by OID; none when they are not wanted.
pub(super) fn labels(
    session: &mut Session,
    options: &ClusterDumpOptions,
    catalog: &str,
    kind: &'static str,
) -> Result<HashMap<u32, Labels>> {
    let mut labels: HashMap<u32, Labels> = HashMap::new();
    if options.no_security_labels {
        return Ok(labels);
    }
    let rows = session.query(&format!(
        "SELECT objoid, provider, label FROM pg_catalog.pg_shseclabel \
         WHERE classoid = 'pg_catalog.{catalog}'::pg_catalog.regclass ORDER BY objoid, provider COLLATE \"C\""
    ))?;
    for row in rows.iter() {
        let provider = session.quoting.name(row.text("provider")?);
        let label = session.quoting.portable_literal(row.text("label")?);
        let of_object = labels.entry(row.parse("objoid")?).or_default();
        of_object.kind = kind;
        of_object.labels.push((provider, label));
    }
    Ok(labels)
}

/// Privileges on configuration parameters. The first superuser, OID 10, counts as their owner.
pub(super) fn parameter_privileges(session: &mut Session) -> Result<String> {
    let rows = session.query(
        "SELECT parname, pg_catalog.pg_get_userbyid(10) AS parowner, paracl, \
         pg_catalog.acldefault('p', 10) AS acldefault FROM pg_catalog.pg_parameter_acl ORDER BY 1",
    )?;
    let mut script = String::new();
    if !rows.is_empty() {
        script.push_str("--\n-- Role privileges on configuration parameters\n--\n\n");
    }
    for row in rows.iter() {
        let parameter = row.text("parname")?;
        let subject = Subject {
            kind: "PARAMETER",
            name: &session.quoting.name(parameter),
            column: None,
            schema: "",
            owner: row.text("parowner")?,
            prefix: "",
        };
        let current = row.optional("paracl")?.unwrap_or_default();
        let base = row.optional("acldefault")?.unwrap_or_default();
        script.push_str(&privileges::commands(session.quoting, &subject, current, base).map_err(|_| {
            ToolError::new(format!("could not parse ACL list ({current}) for parameter \"{parameter}\""))
        })?);
    }
    script.push_str("\n\n");
    Ok(script)
}
