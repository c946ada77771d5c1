//! The order of a dump: by class and name, disturbed as little as dependencies ask for.
//!
//! The result has to be stock 18's to the letter, since a dump's text is compared with others. Facts from
//! `src/bin/pg_dump/pg_dump_sort.c`.

mod initial;
mod loops;
mod topological;

use pgkeep_format::archive::{CatalogId, Section};
use pgkeep_tool::Result;

use super::model::{Id, Kind, Model};

/// The two objects that stand between the sections of a dump.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boundaries {
    pub(crate) pre_data: Id,
    pub(crate) post_data: Id,
}

/// Puts all objects in order; loops among them are broken, and what that means is noted in the objects.
pub(crate) fn order(model: &mut Model, warnings: &mut Vec<String>) -> Result<Vec<Id>> {
    let boundaries = add_boundaries(model);
    let mut ids: Vec<Id> = model.ids().collect();
    initial::sort(model, &mut ids);
    loop {
        match topological::sort(model, &ids) {
            topological::Sorted::All(ordered) => return Ok(ordered),
            topological::Sorted::Stuck(stuck) => loops::repair(model, &stuck, boundaries, warnings)?,
        }
    }
}

fn add_boundaries(model: &mut Model) -> Boundaries {
    let ids: Vec<Id> = model.ids().collect();
    let pre_data = model.add(CatalogId::default(), "PRE-DATA BOUNDARY", None, Kind::PreDataBoundary);
    let post_data = model.add(CatalogId::default(), "POST-DATA BOUNDARY", None, Kind::PostDataBoundary);
    for id in ids {
        match model.get(id).kind.section() {
            Some(Section::PreData) => model.depend(pre_data, id),
            Some(Section::Data) => {
                model.depend(id, pre_data);
                model.depend(post_data, id);
            }
            Some(Section::PostData) => model.depend(id, post_data),
            Some(Section::None) | None => {}
        }
    }
    model.depend(post_data, pre_data);
    Boundaries { pre_data, post_data }
}
