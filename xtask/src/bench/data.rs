//! Data for measurements: pgbench's tables, text that compresses, bytes that do not, and many small tables.

use pgkeep_testkit::Cluster;

use super::Options;

/// Small tables per transaction; each takes locks until its end.
const TABLES_PER_TRANSACTION: u32 = 200;

/// Fills the cluster. The generator is seeded: two runs hold the same bytes.
pub(super) fn generate(cluster: &Cluster, options: &Options) {
    if options.scale > 0 {
        cluster.pgbench_init(options.scale);
    }
    cluster.sql("SELECT setseed(0.42)");
    if options.text > 0 {
        // About 500 bytes a row: words from a small vocabulary, once as text and once inside jsonb.
        let rows = options.text * 2_000;
        cluster.sql(&format!(
            "CREATE TABLE document AS
             SELECT id, note, jsonb_build_object('id', id, 'tags', string_to_array(left(note, 120), ' '), 'active', id % 3 = 0) AS body
             FROM (SELECT id, (SELECT string_agg((ARRAY['alpha','brook','cedar','delta','ember','frost','grove','harbor'])[1 + (hashint8(id * 40 + word) & 7)], ' ')
                               FROM generate_series(1, 40) AS word) AS note
                   FROM generate_series(1, {rows}) AS id) AS source"
        ));
    }
    if options.random > 0 {
        // 2,000 bytes a row of hashes, kept out of TOAST compression.
        let rows = options.random * 480;
        cluster.sql(&format!(
            "CREATE TABLE noise (id bigint, body bytea);
             ALTER TABLE noise ALTER body SET STORAGE EXTERNAL;
             INSERT INTO noise SELECT id, (SELECT string_agg(sha512((id * 64 + part)::text::bytea), '') FROM generate_series(1, 31) AS part)
             FROM generate_series(1, {rows}) AS id"
        ));
    }
    let mut done = 0;
    while done < options.tables {
        let last = (done + TABLES_PER_TRANSACTION).min(options.tables);
        cluster.sql(&format!(
            "DO $$ BEGIN FOR n IN {}..{last} LOOP
               EXECUTE format('CREATE TABLE small_%s AS SELECT id, md5(id::text) AS note FROM generate_series(1, 20) AS id', n);
             END LOOP; END $$",
            done + 1
        ));
        done = last;
    }
    cluster.sql("VACUUM (ANALYZE)");
    cluster.sql("CHECKPOINT");
}
