//! A script whose rows several sessions fetch.

use std::collections::HashMap;
use std::io::Write;

use pgkeep_format::archive::{ArchiveHeader, Compression, DumpId, Text};
use pgkeep_tool::compress::{Codec, Framing};
use pgkeep_tool::{Reporter, Result, ToolError};

use super::{choose, with_data};
use crate::dump::Dump;
use crate::dump::fetch::{self, Delivery, Item, Plan, Sequence};
use crate::restore::{self, Archive, LiveData, RestoreOptions};

/// Writes the script. The dump's own session fetches what is not rows: statistics and large objects.
pub(super) fn write_parallel(
    mut dump: Dump,
    header: ArchiveHeader,
    options: &mut RestoreOptions,
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    let mut wanted = with_data(&choose(&dump, &header, options)?);
    wanted.retain(|id| dump.large_objects(*id).is_none());
    let plan = Plan::new(&mut dump, &wanted, Sequence::Given)?;
    let fetching = dump.fetching(Codec::of(Compression::None), Framing::File);
    let mut others = std::mem::take(&mut dump.others);
    let entries = std::mem::take(&mut dump.entries);
    fetch::fetch(others.iter_mut().collect(), false, &fetching, plan, |delivery| {
        let mut archive = Archive::live(header, entries, Box::new(Fetched::new(dump, delivery)))?;
        restore::write_script(&mut archive, options, out, reporter)
    })
}

/// A dump whose data is being fetched.
#[derive(Debug)]
struct Fetched {
    dump: Dump,
    delivery: Delivery,
    /// Where entries are in the plan.
    places: HashMap<DumpId, usize>,
    /// The next part that comes.
    next: usize,
}

impl Fetched {
    fn new(dump: Dump, delivery: Delivery) -> Fetched {
        let plan = delivery.plan();
        let places = plan.entries.iter().map(|entry| entry.id).zip(0..).collect();
        Fetched { dump, delivery, places, next: 0 }
    }
}

impl LiveData for Fetched {
    fn late_definition(&mut self, entry: DumpId) -> Result<Option<Text>> {
        self.dump.late_definition(entry)
    }

    fn rows(&mut self, id: DumpId, out: &mut dyn Write) -> Result<()> {
        let plan = self.delivery.plan();
        let Some(entry) = self.places.get(&id).and_then(|place| plan.entries.get(*place)) else {
            return Ok(());
        };
        if entry.parts.start != self.next {
            return Err(ToolError::new(format!("the data of entry {id} is wanted out of order")));
        }
        let (mut bytes, mut rows) = (0, 0);
        for _ in entry.parts.clone() {
            self.delivery.part(&mut |item| {
                match item {
                    Item::Bytes(bytes) => out.write_all(&bytes).map_err(|error| ToolError::output(&error))?,
                    Item::PieceEnd(facts) => {
                        bytes += facts.plain_length;
                        rows += facts.rows;
                    }
                    Item::LargeObject(_) | Item::LargeObjectEnd => {}
                }
                Ok(())
            })?;
            self.next += 1;
        }
        self.delivery.ended(entry, bytes, rows);
        Ok(())
    }

    fn large_objects(&self, entry: DumpId) -> Vec<u32> {
        self.dump.large_objects(entry).map(<[u32]>::to_vec).unwrap_or_default()
    }

    fn large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()> {
        self.dump.write_large_object(oid, out)
    }
}
