//! A second look at pages that came damaged over the stream.
//!
//! A stream cannot be read again, and a page that the server was just writing looks damaged. So each such page is asked for
//! once more by SQL; where the role may not, it stays reported.

use std::time::Duration;

use pgkeep_format::Lsn;
use pgkeep_format::page::{PageVerdict, page_lsn, verify_page};
use pgkeep_format::relation::RelationFile;
use pgkeep_wire::Connection;

use super::BadPages;
use super::server::{ServerFacts, read_server_file};
use crate::event::{Event, Observer};

/// Takes those pages off the list that are sound by now, or newer than the backup's start and so healed by replay.
pub fn confirm(
    bad_pages: &mut Vec<BadPages>,
    session: &mut Connection,
    facts: &ServerFacts,
    start: Lsn,
    observer: &dyn Observer,
) {
    let version_directory = facts.tablespace_directory();
    let mut refused = None;
    for bad in bad_pages.iter_mut() {
        let Some(relation) = RelationFile::parse_path(&bad.path, &version_directory) else { continue };
        let before = bad.blocks.len();
        let path = bad.path.clone();
        bad.blocks.retain(|block| {
            for pause in [0, 20, 100] {
                std::thread::sleep(Duration::from_millis(pause));
                let offset = u64::from(*block) * u64::from(facts.block_size);
                match read_server_file(session, &path, offset, u64::from(facts.block_size)) {
                    Ok(page) if page.len() < facts.block_size as usize => return false,
                    Ok(page) => {
                        let in_relation =
                            relation.segment.wrapping_mul(facts.relation_segment_blocks).wrapping_add(*block);
                        let sound =
                            matches!(verify_page(&page, in_relation), PageVerdict::Valid | PageVerdict::New);
                        if sound || page_lsn(&page) >= start {
                            return false;
                        }
                    }
                    Err(why) => {
                        refused = Some(why);
                        return true;
                    }
                }
            }
            true
        });
        bad.total -= (before - bad.blocks.len()) as u64;
    }
    bad_pages.retain(|bad| bad.total > 0);
    if let Some(why) = refused {
        observer.event(Event::Warning {
            text: format!("pages that came damaged could not be read a second time: {why}"),
            hint: Some("grant the role pg_read_server_files, or back up locally, to tell damage from a write in progress".into()),
        });
    }
}
