//! Connection strings as people write them, and as nobody should.

use proptest::prelude::*;

use super::*;

fn pairs(text: &str) -> Vec<(String, String)> {
    parse_connection_string(text).unwrap()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn what_a_standby_connects_with_has_the_password_and_a_port() {
    let environment = Environment::from_iter([("PGPORT", "5433")], None);
    let info = ConnInfo::resolve(
        Some("host=/run user='a b' password=x'y\\\\z dbname=d replication=true"),
        &environment,
    );
    let text = info.unwrap().primary_conninfo(Some("db1"));
    assert_eq!(text, r"user='a b' password='x\'y\\z' host='/run' port=5433 dbname=db1");
    let info = ConnInfo::resolve(Some("user=me host=a,b"), &Environment::from_iter([("X", "")], None));
    assert_eq!(info.unwrap().primary_conninfo(None), "user=me host='a,b' port='5432,5432'");
}

#[test]
fn the_keyword_table_is_sorted() {
    assert!(KEYWORDS.is_sorted());
}

#[test]
fn keyword_value_quoting_follows_libpq() {
    assert_eq!(
        pairs(r"host = db  dbname='my db' password='it\'s \\' user=a\ b"),
        [pair("dbname", "my db"), pair("host", "db"), pair("password", r"it's \"), pair("user", "a b")]
    );
    assert_eq!(pairs("host="), [pair("host", "")]);
    assert_eq!(pairs("mydb"), [pair("dbname", "mydb")]);
    assert!(matches!(parse_connection_string("host='x"), Err(ConnInfoError::Syntax(_))));
    assert!(matches!(parse_connection_string("host x=1"), Err(ConnInfoError::Syntax(_))));
    assert!(
        matches!(parse_connection_string("hots=x"), Err(ConnInfoError::UnknownKeyword(name)) if name == "hots")
    );
}

#[test]
fn uris_of_the_manual() {
    assert_eq!(pairs("postgresql://"), []);
    assert_eq!(pairs("postgresql://localhost"), [pair("host", "localhost")]);
    assert_eq!(pairs("postgresql://localhost:5433"), [pair("host", "localhost"), pair("port", "5433")]);
    assert_eq!(pairs("postgresql://localhost/mydb"), [pair("dbname", "mydb"), pair("host", "localhost")]);
    assert_eq!(
        pairs("postgresql://user:secret@localhost"),
        [pair("host", "localhost"), pair("password", "secret"), pair("user", "user")]
    );
    assert_eq!(
        pairs("postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp"),
        [
            pair("application_name", "myapp"),
            pair("connect_timeout", "10"),
            pair("dbname", "otherdb"),
            pair("host", "localhost"),
            pair("user", "other"),
        ]
    );
    assert_eq!(
        pairs("postgresql://host1:123,host2:456/somedb?target_session_attrs=any"),
        [
            pair("dbname", "somedb"),
            pair("host", "host1,host2"),
            pair("port", "123,456"),
            pair("target_session_attrs", "any"),
        ]
    );
    assert_eq!(
        pairs("postgresql:///mydb?host=localhost&port=5433"),
        [pair("dbname", "mydb"), pair("host", "localhost"), pair("port", "5433")]
    );
    assert_eq!(
        pairs("postgresql://[2001:db8::1234]/db"),
        [pair("dbname", "db"), pair("host", "2001:db8::1234")]
    );
    assert_eq!(
        pairs("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname"),
        [pair("dbname", "dbname"), pair("host", "/var/lib/postgresql")]
    );
    assert_eq!(
        pairs("postgres://u%40x:p%3A%2F%20@h?ssl=true"),
        [pair("host", "h"), pair("password", "p:/ "), pair("sslmode", "require"), pair("user", "u@x")]
    );
}

#[test]
fn malformed_uris_are_refused() {
    for text in [
        "postgresql://[::1",
        "postgresql://[]/",
        "postgresql://[::1]x",
        "postgresql://h/db?a",
        "postgresql://h/db?sslmode=a=b",
        "postgresql://h/db?nonsense=1",
        "postgresql://h%zz/",
        "postgresql://h%00/",
        "postgresql://h%4",
        "postgresql://h%ff/",
    ] {
        assert!(parse_connection_string(text).is_err(), "{text}");
    }
}

#[test]
fn the_string_goes_before_the_environment_and_options_between() {
    let environment = Environment::from_iter(
        [("PGHOST", "from-env"), ("PGPORT", "6000"), ("PGUSER", "env-user"), ("PGDATABASE", "env-db")],
        None,
    );
    let info =
        ConnInfo::resolve_with(&[("port", "7000"), ("host", "opt")], Some("host=dsn"), &environment).unwrap();
    assert_eq!(info.get("host"), Some("dsn"));
    assert_eq!(info.get("port"), Some("7000"));
    assert_eq!(info.user(), "env-user");
    assert_eq!(info.database(), "env-db");
    let info = info.with("dbname", "other").unwrap();
    assert_eq!(info.database(), "other");
    assert!(info.with("hots", "x").is_err());
}

#[test]
fn no_form_of_output_shows_the_password() {
    let info =
        ConnInfo::resolve(Some("host=h user=u password=s3cret sslpassword=s3cret"), &Environment::empty())
            .unwrap();
    let all = format!("{info:?} {} {} {:?}", info.describe(), info.to_conninfo(), info.settings);
    assert!(!all.contains("s3cret"), "{all}");
    assert_eq!(info.get("password"), None);
}

#[test]
fn the_database_defaults_to_the_user() {
    let info = ConnInfo::resolve(Some("user=alice host=h"), &Environment::empty()).unwrap();
    assert_eq!(info.database(), "alice");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".*") {
        drop(parse_connection_string(&text));
        drop(parse_connection_string(&format!("postgresql://{text}")));
        drop(ConnInfo::resolve(Some(&text), &Environment::from_iter([("PGUSER", "u")], None)));
    }

    #[test]
    fn parsing_never_panics_on_what_looks_like_a_uri(text in "[a-z:@/?\\[\\],%0-9=&']{0,40}") {
        drop(parse_connection_string(&format!("postgresql://{text}")));
    }

    #[test]
    fn any_value_survives_quoting(value in "[^\\x00]*") {
        let environment = Environment::from_iter([("PGUSER", "u")], None);
        let info = ConnInfo::resolve(None, &environment).unwrap().with("application_name", &value).unwrap();
        let again = ConnInfo::resolve(Some(&info.to_conninfo()), &environment).unwrap();
        prop_assert_eq!(again.get("application_name"), Some(value.as_str()));
    }

    #[test]
    fn percent_encoding_any_text_gives_it_back(text in "[^\\x00]*") {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        prop_assert_eq!(percent_decode(&encoded).unwrap(), text);
    }
}
