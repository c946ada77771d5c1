//! A small writer of archives that shares nothing with the product, for versions and damages that no stock program
//! here can write. Uncompressed, or zlib with stored blocks.

/// An entry; what is not set is NULL.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    pub(crate) id: i32,
    pub(crate) oid: u32,
    pub(crate) desc: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) section: i32,
    pub(crate) definition: Option<&'static str>,
    pub(crate) drop_statement: Option<&'static str>,
    pub(crate) copy: Option<&'static str>,
    pub(crate) namespace: Option<&'static str>,
    pub(crate) method: Option<&'static str>,
    pub(crate) owner: Option<&'static str>,
    pub(crate) with_oids: bool,
    pub(crate) needs: Vec<i32>,
    /// The block behind the table, without type and id; `BLOBS` get the other type.
    pub(crate) block: Option<Vec<u8>>,
    /// A file's name, in directories.
    pub(crate) file: Option<&'static str>,
}

/// An integer.
pub(crate) fn int(value: i32) -> Vec<u8> {
    let mut bytes = vec![u8::from(value < 0)];
    bytes.extend(value.unsigned_abs().to_le_bytes());
    bytes
}

fn text(value: Option<&str>) -> Vec<u8> {
    match value {
        None => int(-1),
        Some(value) => [int(i32::try_from(value.len()).unwrap()), value.as_bytes().to_vec()].concat(),
    }
}

/// Bytes as chunks of a few bytes each.
pub(crate) fn chunks(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in bytes.chunks(size) {
        out.extend(int(i32::try_from(piece.len()).unwrap()));
        out.extend(piece);
    }
    out.extend(int(0));
    out
}

/// A zlib stream that does not compress.
pub(crate) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    let mut out = vec![0x78, 0x01, 0x01];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(bytes);
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    out.extend((high << 16 | low).to_be_bytes());
    out
}

/// Header and table of an archive of version 1.`minor`. `format`: 1 custom, 3 directory or tar. `compressed`: by zlib.
pub(crate) fn table(minor: u8, format: u8, compressed: bool, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![b'P', b'G', b'D', b'M', b'P', 1, minor, 0, 4, 8, format];
    if minor >= 15 {
        out.push(u8::from(compressed));
    } else {
        out.extend(int(if compressed { -1 } else { 0 }));
    }
    for field in [7, 8, 9, 10, 10, 126, 0] {
        out.extend(int(field));
    }
    for value in ["old", "9.6.24", "10.1"] {
        out.extend(text(Some(value)));
    }
    out.extend(int(i32::try_from(entries.len()).unwrap()));
    for entry in entries {
        out.extend(int(entry.id));
        out.extend(int(i32::from(entry.block.is_some() || entry.file.is_some())));
        out.extend(text(Some("1259")));
        out.extend(text(Some(&entry.oid.to_string())));
        out.extend(text(Some(entry.tag)));
        out.extend(text(Some(entry.desc)));
        out.extend(int(entry.section));
        out.extend(text(entry.definition));
        out.extend(text(entry.drop_statement));
        out.extend(text(entry.copy));
        out.extend(text(entry.namespace));
        out.extend(text(Some("")));
        if minor >= 14 {
            out.extend(text(entry.method));
        }
        if minor >= 16 {
            out.extend(int(0));
        }
        out.extend(text(entry.owner));
        out.extend(text(Some(if entry.with_oids { "true" } else { "false" })));
        for need in &entry.needs {
            out.extend(text(Some(&need.to_string())));
        }
        out.extend(text(None));
        if format == 1 {
            out.push(if entry.block.is_some() { 1 } else { 3 });
            out.extend([0; 8]);
        } else {
            out.extend(text(Some(entry.file.unwrap_or(""))));
        }
    }
    out
}

/// A custom archive.
pub(crate) fn custom(minor: u8, compressed: bool, entries: &[Entry]) -> Vec<u8> {
    let mut out = table(minor, 1, compressed, entries);
    for entry in entries {
        if let Some(block) = &entry.block {
            out.push(if entry.desc == "BLOBS" { 3 } else { 1 });
            out.extend(int(entry.id));
            out.extend(block);
        }
    }
    out
}

/// The entries of a small database as archives of that version have them: a large object per entry up to 1.15, a path
/// of its own for each schema up to 1.12.
pub(crate) fn small_database(minor: u8, compressed: bool) -> Vec<Entry> {
    let pack = |bytes: &[u8]| chunks(&if compressed { zlib(bytes) } else { bytes.to_vec() }, 3);
    let of_path = |qualified: &'static str, bare: &'static str| if minor >= 13 { qualified } else { bare };
    let blobs = [int(70001), pack(b"hello"), int(70002), pack(b""), int(0)].concat();
    let mut entries = vec![
        Entry {
            id: 90,
            desc: "ENCODING",
            tag: "ENCODING",
            section: 2,
            definition: Some("SET client_encoding = 'UTF8';\n"),
            ..Entry::default()
        },
        Entry {
            id: 91,
            desc: "STDSTRINGS",
            tag: "STDSTRINGS",
            section: 2,
            definition: Some("SET standard_conforming_strings = 'on';\n"),
            ..Entry::default()
        },
    ];
    if minor >= 13 {
        entries.push(Entry {
            id: 92,
            desc: "SEARCHPATH",
            tag: "SEARCHPATH",
            section: 2,
            definition: Some("SELECT pg_catalog.set_config('search_path', '', false);\n"),
            ..Entry::default()
        });
    }
    let blob = |id, oid, tag: &'static str, definition| Entry {
        id,
        oid,
        desc: "BLOB",
        tag,
        section: 2,
        definition: Some(definition),
        drop_statement: Some("SELECT pg_catalog.lo_unlink('70001');\n"),
        owner: Some("postgres"),
        ..Entry::default()
    };
    entries.extend([
        Entry {
            id: 1,
            oid: 16400,
            desc: "SCHEMA",
            tag: "s",
            section: 2,
            definition: Some("CREATE SCHEMA s;\n"),
            drop_statement: Some("DROP SCHEMA s;\n"),
            owner: Some("postgres"),
            ..Entry::default()
        },
        Entry {
            id: 2,
            oid: 16401,
            desc: "TABLE",
            tag: "t",
            section: 2,
            definition: Some(of_path(
                "CREATE TABLE s.t (\n    a integer,\n    b text\n);\n",
                "CREATE TABLE t (\n    a integer,\n    b text\n);\n",
            )),
            drop_statement: Some("DROP TABLE s.t;\n"),
            namespace: Some("s"),
            method: Some("heap"),
            owner: Some("postgres"),
            needs: vec![1, 900],
            ..Entry::default()
        },
        blob(4, 70001, "70001", "SELECT pg_catalog.lo_create('70001');\n"),
        blob(5, 70002, "70002", "SELECT pg_catalog.lo_create('70002');\n"),
        Entry {
            id: 3,
            oid: 16401,
            desc: "TABLE DATA",
            tag: "t",
            section: 3,
            copy: Some(of_path("COPY s.t (a, b) FROM stdin;\n", "COPY t (a, b) FROM stdin;\n")),
            namespace: Some("s"),
            owner: Some("postgres"),
            needs: vec![2],
            block: Some(pack(b"1\tone\n2\t\\N\n3\tit's; \"x\"\n\\.\n\n\n")),
            ..Entry::default()
        },
        Entry { id: 6, desc: "BLOBS", tag: "BLOBS", section: 3, block: Some(blobs), ..Entry::default() },
        Entry {
            id: 7,
            oid: 16410,
            desc: "CONSTRAINT",
            tag: "t t_pkey",
            section: 4,
            definition: Some(of_path(
                "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a);\n",
                "ALTER TABLE ONLY t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a);\n",
            )),
            drop_statement: Some("ALTER TABLE ONLY s.t DROP CONSTRAINT t_pkey;\n"),
            namespace: Some("s"),
            owner: Some("postgres"),
            needs: vec![2],
            ..Entry::default()
        },
        Entry {
            id: 8,
            desc: "ACL",
            tag: "TABLE t",
            section: 1,
            definition: Some(of_path(
                "GRANT SELECT ON TABLE s.t TO PUBLIC;\n",
                "GRANT SELECT ON TABLE t TO PUBLIC;\n",
            )),
            namespace: Some("s"),
            owner: Some("postgres"),
            needs: vec![2],
            ..Entry::default()
        },
    ]);
    entries
}
