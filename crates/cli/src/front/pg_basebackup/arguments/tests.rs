use super::*;

fn parsed(words: &[&str]) -> Result<Arguments, String> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    Arguments::parse(&words).map_err(|mistake| match mistake {
        Mistake::Plain(text) | Mistake::TryHelp(text) | Mistake::Getopt(text) => text,
        Mistake::Failure(error) => error.message,
    })
}

fn refusal(words: &[&str]) -> String {
    parsed(words).err().unwrap_or_else(|| "accepted".to_owned())
}

#[test]
fn the_commands_of_users() {
    let tar = parsed(&["-U", "postgres", "-D", "/backup/postgresql/", "-Ft", "-z", "-P"]).unwrap();
    assert!(tar.progress);
    assert_eq!(tar.connection.user(), "postgres");
    let Destination::Tar { directory, codec, .. } = &tar.request.destination else { panic!() };
    assert_eq!(directory.to_str(), Some("/backup/postgresql"));
    assert_eq!(codec.compression, Compression::Gzip);
    assert_eq!((tar.request.wal, &tar.request.slot), (WalMethod::Stream, &Slot::Temporary));
    let plain = parsed(&["-U", "postgres", "-D", "/backup/full_backup/"]).unwrap();
    assert!(matches!(plain.request.destination, Destination::Plain { .. }));
    assert!(plain.request.clean && plain.request.sync.is_some() && plain.request.verify_checksums);
    assert!(plain.request.manifest.is_some() && plain.request.estimate_size);
    assert!(!plain.request.fast_checkpoint);
}

#[test]
fn what_does_not_go_together_is_refused_in_stocks_words() {
    for (words, text) in [
        (&[][..], "must specify output directory or backup target"),
        (&["-Dx", "-tblackhole"], "cannot specify both output directory and backup target"),
        (&["-tblackhole", "-Ft", "-Xnone"], "cannot specify both format and backup target"),
        (&["-tblackhole"], "WAL cannot be streamed when a backup target is specified"),
        (&["-tblackhole", "-Xfetch"], "accepted"),
        (
            &["-tserver:/x", "-Xnone", "-Zclient-gzip"],
            "client-side compression is not possible when a backup target is specified",
        ),
        (
            &["-tserver:/x", "-Xnone", "-Zgzip", "-R"],
            "recovery configuration cannot be written when a backup target is used",
        ),
        (&["-Dx", "-z"], "only tar mode backups can be compressed"),
        (&["-Dx", "-Zserver-zstd"], "accepted"),
        (&["-Dx", "-Z0"], "accepted"),
        (&["-D-", "-Ft"], "cannot stream write-ahead logs in tar mode to stdout"),
        (&["-D-", "-Ft", "-Xfetch"], "accepted"),
        (&["-Dx", "-Ss", "-Xnone"], "replication slots can only be used with WAL streaming"),
        (&["-Dx", "-Ss", "-C", "--no-slot"], "--no-slot cannot be used with slot name"),
        (&["-Dx", "-C"], "--create-slot needs a slot to be specified using --slot"),
        (&["-Dx", "-Ft", "--waldir=/x"], "WAL directory location can only be specified in plain mode"),
        (&["-Dx", "--waldir=x"], "WAL directory location must be an absolute path"),
        (&["-Dx", "-P", "--no-estimate-size"], "--progress and --no-estimate-size are incompatible options"),
        (
            &["-Dx", "--no-manifest", "--manifest-checksums=NONE"],
            "--no-manifest and --manifest-checksums are incompatible options",
        ),
        (
            &["-Dx", "--no-manifest", "--manifest-force-encode"],
            "--no-manifest and --manifest-force-encode are incompatible options",
        ),
        (&["-Dx", "-cslow"], "invalid checkpoint argument \"slow\", must be \"fast\" or \"spread\""),
        (&["-Dx", "-Fx"], "invalid output format \"x\", must be \"plain\" or \"tar\""),
        (&["-Dx", "-Xx"], "invalid wal-method option \"x\", must be \"fetch\", \"stream\", or \"none\""),
        (&["-Dx", "--sync-method=x"], "unrecognized sync method: x"),
        (&["-Dx", "y"], "too many command-line arguments (first is \"y\")"),
        (&["-Dx", "-Ft", "-Zextrasquishy"], "unrecognized compression algorithm: \"extrasquishy\""),
        (&["-Dx", "-Zserver-extrasquishy"], "accepted"),
        (&["-Dx", "-T/a"], "invalid tablespace mapping format \"/a\", must be \"OLDDIR=NEWDIR\""),
    ] {
        assert_eq!(refusal(words), text, "{words:?}");
    }
}

#[test]
fn rates() {
    for (text, expected) in [
        ("32", Ok(32)),
        ("1.5M", Ok(1536)),
        (" 64 k", Ok(64)),
        ("31", Err("transfer rate \"31\" is out of range")),
        ("1025M", Err("transfer rate \"1025M\" is out of range")),
        ("x", Err("transfer rate \"x\" is not a valid value")),
        ("-1", Err("transfer rate must be greater than zero")),
        ("1G", Err("invalid --max-rate unit: \"G\"")),
        ("9999999999", Err("transfer rate \"9999999999\" exceeds integer range")),
    ] {
        let found = rate(text).map_err(|mistake| match mistake {
            Mistake::Plain(text) => text,
            other => format!("{other:?}"),
        });
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn who_compresses() {
    let server = |words: &[&str]| parsed(words).unwrap().request.server_compression;
    let some = |method: &str, detail: Option<&str>| Some((method.to_owned(), detail.map(str::to_owned)));
    assert_eq!(server(&["-Dx", "-Zserver-zstd:level=3,workers=2"]), some("zstd", Some("level=3,workers=2")));
    assert_eq!(server(&["-tserver:/x", "-Xnone", "-Z5"]), some("gzip", Some("5")));
    assert_eq!(server(&["-Dx", "-Ft", "-Zgzip:5"]), None);
    let threads = |words: &[&str]| match parsed(words).unwrap().request.destination {
        Destination::Tar { threads, .. } => threads,
        other => panic!("{other:?}"),
    };
    assert_eq!(threads(&["-Dx", "-Ft", "-Zzstd:workers=3"]), 3);
    assert!(threads(&["-Dx", "-Ft", "-Zclient-lz4"]) >= 1);
}
