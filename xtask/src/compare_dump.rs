//! `cargo xtask compare-dump`: our table of contents against that of stock pg_dump 18, entry by entry.
//!
//! The judge of the dump engine: equal, different, missing and extra entries by class, and the order. Both dumps are taken
//! one after the other, so nobody may change the database meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use pgkeep_format::archive::{ArchiveDecoder, ArchiveFormat, DumpId, Text, TocEntry};
use pgkeep_logical::dump::{Dump, DumpOptions};
use pgkeep_testkit::{Cluster, Scratch, client};
use pgkeep_wire::{ConnInfo, Environment};

use crate::Failure;

/// Options of the chore.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compare dumps of this database (a connection string)
    #[arg(long, required_unless_present = "sql")]
    dbname: Option<String>,
    /// Make a throw-away cluster and run these scripts in it
    #[arg(long)]
    sql: Vec<PathBuf>,
    /// Major version of the throw-away cluster
    #[arg(long, default_value_t = 18)]
    major: u32,
    /// Definitions only
    #[arg(long)]
    schema_only: bool,
    /// Show so many differing entries
    #[arg(long, default_value_t = 10)]
    show: usize,
    /// Show differing entries of this class only
    #[arg(long)]
    class: Option<String>,
}

/// What an entry is about, by which the two dumps are matched.
type Key = (String, String, String, usize);

/// Runs the chore.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let cluster = options.sql.first().map(|_| Cluster::builder(options.major).start());
    let conninfo = match (&cluster, &options.dbname) {
        (Some(cluster), _) => {
            cluster.sql("CREATE DATABASE compared");
            for script in &options.sql {
                cluster.try_sql_db("compared", &std::fs::read_to_string(script)?)?;
            }
            cluster.conninfo_db("compared")
        }
        (None, Some(dbname)) => dbname.clone(),
        (None, None) => return Err("name a database with --dbname or scripts with --sql".into()),
    };
    let stock = stock(&conninfo, options.schema_only)?;
    let ours = ours(&conninfo, options.schema_only)?;
    let same = compare(options, &stock, &ours);
    if same { Ok(()) } else { Err("the dumps differ".into()) }
}

fn stock(conninfo: &str, schema_only: bool) -> Result<Vec<TocEntry>, Failure> {
    let scratch = Scratch::new();
    let path = scratch.path().join("stock.dump");
    let mut command = Command::new(client("pg_dump"));
    command.args(["-Fc", "-Z0", "-d", conninfo, "-f"]).arg(&path);
    if schema_only {
        command.arg("-s");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("stock pg_dump failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut decoder = ArchiveDecoder::new(BufReader::new(File::open(&path)?));
    let header = decoder.header(ArchiveFormat::Custom)?;
    Ok(decoder.table(&header)?)
}

fn ours(conninfo: &str, schema_only: bool) -> Result<Vec<TocEntry>, Failure> {
    let conninfo = ConnInfo::resolve(Some(conninfo), &Environment::empty())?;
    let options = DumpOptions { create_database: true, data: !schema_only, ..DumpOptions::default() };
    let started = std::time::Instant::now();
    let mut dump = Dump::start(&conninfo, &options).map_err(|error| {
        format!("{error}; {}", error.detail.as_deref().or(error.hint.as_deref()).unwrap_or_default())
    })?;
    println!("our table of contents took {:.2} s", started.elapsed().as_secs_f64());
    for warning in dump.take_warnings() {
        println!("warning: {warning}");
    }
    let mut entries = dump.entries().to_vec();
    dump.add_dependencies(&mut entries);
    Ok(entries)
}

fn text(value: Option<&Text>) -> String {
    value
        .map_or_else(|| "NULL".to_owned(), |value| format!("{:?}", String::from_utf8_lossy(value.as_bytes())))
}

/// Entries by what they are about; the last part of the key tells equal ones apart.
fn keyed(entries: &[TocEntry]) -> (Vec<Key>, HashMap<Key, &TocEntry>, HashMap<DumpId, String>) {
    let mut counts: HashMap<(String, String, String), usize> = HashMap::new();
    let mut keys = Vec::new();
    let mut by_key = HashMap::new();
    let mut names = HashMap::new();
    for entry in entries {
        let base = (entry.desc.to_string(), text(entry.namespace.as_ref()), entry.tag.to_string());
        let count = counts.entry(base.clone()).or_default();
        let key = (base.0, base.1, base.2, *count);
        *count += 1;
        names.insert(entry.dump_id, format!("{} {} {}#{}", key.0, key.1, key.2, key.3));
        by_key.insert(key.clone(), entry);
        keys.push(key);
    }
    (keys, by_key, names)
}

/// The fields that are compared, by name.
fn fields(entry: &TocEntry, names: &HashMap<DumpId, String>) -> Vec<(&'static str, String)> {
    let dependencies: Vec<String> = entry
        .dependencies
        .iter()
        .map(|id| names.get(id).cloned().unwrap_or_else(|| "(not in the archive)".to_owned()))
        .collect();
    vec![
        ("catalog id", format!("{:?}", entry.catalog_id)),
        ("section", format!("{:?}", entry.section)),
        ("definition", text(entry.definition.as_ref())),
        ("drop", text(entry.drop_statement.as_ref())),
        ("copy", text(entry.copy_statement.as_ref())),
        ("tablespace", text(entry.tablespace.as_ref())),
        ("access method", text(entry.table_access_method.as_ref())),
        ("relkind", entry.relkind.to_string()),
        ("owner", text(entry.owner.as_ref())),
        ("data", entry.had_dumper.to_string()),
        ("dependencies", dependencies.join("; ")),
    ]
}

#[derive(Default)]
struct Count {
    equal: usize,
    different: usize,
    missing: usize,
    extra: usize,
}

fn compare(options: &Options, stock: &[TocEntry], ours: &[TocEntry]) -> bool {
    let (stock_keys, stock_by_key, stock_names) = keyed(stock);
    let (our_keys, our_by_key, our_names) = keyed(ours);
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    let mut shown = 0;
    let mut show = |class: &str, lines: &str| {
        if options.class.as_deref().is_none_or(|wanted| wanted == class) && shown < options.show {
            shown += 1;
            println!("{lines}");
        }
    };
    for key in &stock_keys {
        let count = counts.entry(&key.0).or_default();
        let theirs = stock_by_key[key];
        let Some(mine) = our_by_key.get(key) else {
            count.missing += 1;
            show(&key.0, &format!("--- missing: {} {} {}", key.0, key.1, key.2));
            continue;
        };
        let differences: Vec<String> = fields(theirs, &stock_names)
            .into_iter()
            .zip(fields(mine, &our_names))
            .filter(|(theirs, mine)| theirs.1 != mine.1)
            .map(|(theirs, mine)| format!("  {}:\n    stock {}\n    ours  {}", theirs.0, theirs.1, mine.1))
            .collect();
        if differences.is_empty() {
            count.equal += 1;
        } else {
            count.different += 1;
            let all = differences.join("\n");
            show(&key.0, &format!("--- different: {} {} {}\n{all}", key.0, key.1, key.2));
        }
    }
    for key in our_keys.iter().filter(|key| !stock_by_key.contains_key(*key)) {
        counts.entry(&key.0).or_default().extra += 1;
        show(&key.0, &format!("--- extra: {} {} {}", key.0, key.1, key.2));
    }
    println!("{:<28} {:>7} {:>9} {:>7} {:>5}", "class", "equal", "different", "missing", "extra");
    let mut all = Count::default();
    for (class, count) in &counts {
        println!(
            "{class:<28} {:>7} {:>9} {:>7} {:>5}",
            count.equal, count.different, count.missing, count.extra
        );
        all.equal += count.equal;
        all.different += count.different;
        all.missing += count.missing;
        all.extra += count.extra;
    }
    println!("{:<28} {:>7} {:>9} {:>7} {:>5}", "all", all.equal, all.different, all.missing, all.extra);
    let first = stock_keys.iter().zip(&our_keys).position(|(theirs, mine)| theirs != mine);
    match first {
        None if stock_keys.len() == our_keys.len() => println!("order: equal"),
        None => println!("order: equal as far as it goes"),
        Some(position) => println!(
            "order: different from entry {position} on: stock {:?}, ours {:?}",
            stock_keys[position], our_keys[position]
        ),
    }
    let same_ids = stock.iter().zip(ours).all(|(theirs, mine)| theirs.dump_id == mine.dump_id);
    println!("numbers of entries: {}", if same_ids { "equal" } else { "different" });
    all.different + all.missing + all.extra == 0 && first.is_none()
}
