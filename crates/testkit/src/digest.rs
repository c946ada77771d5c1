//! Comparing the contents of two databases, whatever order their rows lie in.

use std::collections::BTreeMap;

use crate::cluster::Cluster;

/// One line per table and materialized view: its name, row count, and the sums of two hashes of every row's text.
/// Sums make the digest independent of the rows' order, so that a big table needs no sort.
const QUERY: &str = r"
SET extra_float_digits = 3;
SET search_path = pg_catalog;
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t.*::text, 0)), 0), coalesce(sum(hashtextextended(t.*::text, 1)), 0) FROM %I.%I t',
              n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%'
ORDER BY 1
\gexec
SELECT 'large objects', count(*), coalesce(sum(hashtextextended(t.*::text, 0)), 0), coalesce(sum(hashtextextended(t.*::text, 1)), 0)
FROM pg_largeobject t;
";

/// A digest of every permanent table of a database by its name, equal exactly when the tables hold the same rows
/// (up to a collision of 128 bits). Every table is read in its own snapshot: let no one write meanwhile.
#[must_use]
pub fn table_digests(cluster: &Cluster, database: &str) -> BTreeMap<String, String> {
    cluster
        .sql_db(database, QUERY)
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(table, digest)| (table.to_owned(), digest.to_owned()))
        .collect()
}
