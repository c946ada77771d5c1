//! Which roles are members of which, in an order in which the server takes it.
//!
//! From version 16 on a membership names its grantor, who must have the ADMIN option on the role at that moment; only the
//! first superuser needs none. Servers before kept grantors carelessly, so theirs are left out.

use std::collections::HashSet;

use pgkeep_tool::{Reporter, Result, ToolError};

use super::ClusterDumpOptions;
use crate::dump::session::{Session, flag, optional};
use crate::dump::sql::Quoting;

/// The OID of the first superuser.
const FIRST_SUPERUSER: u32 = 10;

/// A membership. A name is missing when its role is gone.
#[derive(Debug, Clone, Default)]
struct Membership {
    role: Option<String>,
    member: Option<String>,
    grantor: Option<String>,
    role_oid: u32,
    member_oid: u32,
    grantor_oid: u32,
    admin: bool,
    inherit: bool,
    set: bool,
}

/// Commands that grant all memberships.
pub(super) fn memberships(
    session: &mut Session,
    options: &ClusterDumpOptions,
    reporter: &dyn Reporter,
) -> Result<String> {
    let with_options = session.is_at_least(16);
    let more = if with_options { "a.inherit_option, a.set_option" } else { "true AS set_option" };
    let catalog = options.role_catalog();
    let rows = session.query(&format!(
        "SELECT ur.rolname AS role, um.rolname AS member, ug.rolname AS grantor, a.roleid, a.member AS memberid, \
         a.grantor AS grantorid, a.admin_option, {more} FROM pg_catalog.pg_auth_members a \
         LEFT JOIN {catalog} ur ON ur.oid = a.roleid LEFT JOIN {catalog} um ON um.oid = a.member \
         LEFT JOIN {catalog} ug ON ug.oid = a.grantor \
         WHERE NOT (ur.rolname ~ '^pg_' AND um.rolname ~ '^pg_') ORDER BY 1, 2, 3"
    ))?;
    let mut list = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        list.push(Membership {
            role: optional(row, "role")?,
            member: optional(row, "member")?,
            grantor: optional(row, "grantor")?,
            role_oid: row.parse("roleid")?,
            member_oid: row.parse("memberid")?,
            grantor_oid: row.parse("grantorid")?,
            admin: flag(row, "admin_option")?,
            inherit: with_options && flag(row, "inherit_option")?,
            set: flag(row, "set_option")?,
        });
    }
    let mut script = String::new();
    if !list.is_empty() {
        script.push_str("--\n-- Role memberships\n--\n\n");
    }
    for of_role in list.chunk_by(|one, next| one.role == next.role) {
        let [first, ..] = of_role else { continue };
        let Some(role) = &first.role else {
            reporter.warning(&format!("ignoring role grant for missing role with OID {}", first.role_oid));
            break;
        };
        script.push_str(&grants(session.quoting, role, of_role, with_options, reporter)?);
    }
    script.push_str("\n\n");
    Ok(script)
}

/// The grants of one role: again and again those whose grantor may grant by now.
fn grants(
    quoting: Quoting,
    role: &str,
    memberships: &[Membership],
    with_options: bool,
    reporter: &dyn Reporter,
) -> Result<String> {
    let mut script = String::new();
    let mut admins: HashSet<&str> = HashSet::new();
    let mut waiting: Vec<&Membership> = memberships.iter().collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut postponed = Vec::new();
        for membership in waiting {
            let Some(member) = &membership.member else {
                let oid = membership.member_oid;
                reporter.warning(&format!("ignoring role grant to missing role with OID {oid}"));
                continue;
            };
            let grantor = membership.grantor.as_deref().filter(|_| with_options);
            if with_options && grantor.is_none() {
                let oid = membership.grantor_oid;
                reporter.warning(&format!(
                    "grant of role \"{role}\" to \"{member}\" has invalid grantor OID {oid}"
                ));
                reporter.detail("This grant will be dumped without GRANTED BY.");
            }
            if let Some(grantor) = grantor
                && membership.grantor_oid != FIRST_SUPERUSER
                && !admins.contains(grantor)
            {
                postponed.push(membership);
                continue;
            }
            if membership.admin {
                admins.insert(member);
            }
            script.push_str(&grant(quoting, role, member, grantor, membership, with_options));
        }
        if postponed.len() == before {
            return Err(ToolError::new(format!(
                "could not find a legal dump ordering for memberships in role \"{role}\""
            )));
        }
        waiting = postponed;
    }
    Ok(script)
}

fn grant(
    quoting: Quoting,
    role: &str,
    member: &str,
    grantor: Option<&str>,
    membership: &Membership,
    with_options: bool,
) -> String {
    let mut options = Vec::new();
    if membership.admin {
        options.push("ADMIN OPTION");
    }
    if with_options {
        options.push(if membership.inherit { "INHERIT TRUE" } else { "INHERIT FALSE" });
    }
    if !membership.set {
        options.push("SET FALSE");
    }
    let mut sql = format!("GRANT {} TO {}", quoting.name(role), quoting.name(member));
    if !options.is_empty() {
        sql.push_str(&format!(" WITH {}", options.join(", ")));
    }
    if let Some(grantor) = grantor {
        sql.push_str(&format!(" GRANTED BY {}", quoting.name(grantor)));
    }
    sql.push_str(";\n");
    sql
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const QUOTING: Quoting = Quoting { all_identifiers: false, standard_strings: true };

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Reporter for Heard {
        fn info(&self, _: &str) {}
        fn warning(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
        fn error(&self, _: &str) {}
    }

    fn membership(member: &str, grantor: &str, grantor_oid: u32, admin: bool) -> Membership {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Membership {
            member: name(member),
            grantor: name(grantor),
            grantor_oid,
            admin,
            inherit: true,
            set: true,
            ..Membership::default()
        }
    }

    #[test]
    fn a_grantor_gets_the_admin_option_first() {
        let list = [
            membership("a", "c", 30, false),
            membership("b", "postgres", 10, true),
            membership("c", "b", 20, true),
        ];
        let script = grants(QUOTING, "r", &list, true, &Heard::default()).unwrap();
        assert_eq!(
            script,
            "GRANT r TO b WITH ADMIN OPTION, INHERIT TRUE GRANTED BY postgres;\n\
             GRANT r TO c WITH ADMIN OPTION, INHERIT TRUE GRANTED BY b;\n\
             GRANT r TO a WITH INHERIT TRUE GRANTED BY c;\n"
        );
    }

    #[test]
    fn grantors_in_a_circle_are_an_error() {
        let list = [membership("a", "b", 20, true), membership("b", "a", 30, true)];
        let error = grants(QUOTING, "r", &list, true, &Heard::default()).unwrap_err();
        assert_eq!(error.message, "could not find a legal dump ordering for memberships in role \"r\"");
    }

    #[test]
    fn roles_that_are_gone_are_told_once() {
        let heard = Heard::default();
        let list = [membership("", "postgres", 10, true), membership("a", "", 77, false)];
        let script = grants(QUOTING, "r", &list, true, &heard).unwrap();
        assert_eq!(script, "GRANT r TO a WITH INHERIT TRUE;\n");
        assert_eq!(heard.0.lock().unwrap().len(), 3);
    }

    #[test]
    fn old_servers_have_no_grantors() {
        let list = [membership("a", "nobody", 77, true)];
        let script = grants(QUOTING, "r", &list, false, &Heard::default()).unwrap();
        assert_eq!(script, "GRANT r TO a WITH ADMIN OPTION;\n");
    }
}
