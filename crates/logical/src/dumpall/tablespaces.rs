//! Tablespaces, without the two that every cluster has.

use pgkeep_tool::{Result, ToolError};

use super::ClusterDumpOptions;
use super::roles::labels;
use crate::dump::privileges::{self, Subject};
use crate::dump::session::Session;

/// Commands that drop all tablespaces.
pub(super) fn drops(session: &mut Session, options: &ClusterDumpOptions) -> Result<String> {
    let rows =
        session.query("SELECT spcname FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1")?;
    let mut script = String::new();
    if !rows.is_empty() {
        script.push_str("--\n-- Drop tablespaces\n--\n\n");
    }
    for row in rows.iter() {
        let name = session.quoting.name(row.text("spcname")?);
        script.push_str(&format!("DROP TABLESPACE {}{name};\n", options.if_exists()));
    }
    script.push_str("\n\n");
    Ok(script)
}

/// Commands that make all tablespaces, in the order in which they were made.
pub(super) fn tablespaces(session: &mut Session, options: &ClusterDumpOptions) -> Result<String> {
    let rows = session.query(
        "SELECT oid, spcname, pg_catalog.pg_get_userbyid(spcowner) AS owner, \
         pg_catalog.pg_tablespace_location(oid) AS location, spcacl, \
         pg_catalog.acldefault('t', spcowner) AS acldefault, \
         pg_catalog.array_to_string(spcoptions, ', ') AS options, \
         pg_catalog.shobj_description(oid, 'pg_tablespace') AS description \
         FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1",
    )?;
    let labels = labels(session, options, "pg_tablespace", "TABLESPACE")?;
    let quoting = session.quoting;
    let mut script = String::new();
    if !rows.is_empty() {
        script.push_str("--\n-- Tablespaces\n--\n\n");
    }
    for row in rows.iter() {
        let filled = |column| Ok::<_, ToolError>(row.optional(column)?.filter(|text| !text.is_empty()));
        let (oid, plain, owner) = (row.parse::<u32>("oid")?, row.text("spcname")?, row.text("owner")?);
        let name = quoting.name(plain);
        if options.binary_upgrade {
            script.push_str(&format!(
                "\n-- For binary upgrade, must preserve pg_tablespace oid\n\
                 SELECT pg_catalog.binary_upgrade_set_next_pg_tablespace_oid('{oid}'::pg_catalog.oid);\n"
            ));
        }
        // The server shows a path of its own for a tablespace that was made in place.
        let location = filled("location")?.filter(|location| location.starts_with('/')).unwrap_or_default();
        script.push_str(&format!(
            "CREATE TABLESPACE {name} OWNER {} LOCATION {};\n",
            quoting.name(owner),
            quoting.portable_literal(location)
        ));
        if let Some(settings) = filled("options")? {
            script.push_str(&format!("ALTER TABLESPACE {name} SET ({settings});\n"));
        }
        if !options.no_privileges {
            let subject =
                Subject { kind: "TABLESPACE", name: &name, column: None, schema: "", owner, prefix: "" };
            let current = row.optional("spcacl")?.unwrap_or_default();
            let base = row.optional("acldefault")?.unwrap_or_default();
            script.push_str(&privileges::commands(quoting, &subject, current, base).map_err(|_| {
                ToolError::new(format!("could not parse ACL list ({current}) for tablespace \"{plain}\""))
            })?);
        }
        if let Some(comment) = filled("description")?.filter(|_| !options.no_comments) {
            let comment = quoting.portable_literal(comment);
            script.push_str(&format!("COMMENT ON TABLESPACE {name} IS {comment};\n"));
        }
        script.push_str(&labels.get(&oid).map(|labels| labels.commands(&name)).unwrap_or_default());
    }
    script.push_str("\n\n");
    Ok(script)
}
