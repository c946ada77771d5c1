//! A topological sort that changes the given order no more than it must: filled from the end, always with what stands
//! last in the given order among all that nothing more has to follow.

use std::collections::BinaryHeap;

use crate::dump::model::{Id, Model};

/// What came of it.
#[derive(Debug)]
pub(super) enum Sorted {
    /// All objects, in order.
    All(Vec<Id>),
    /// Those that loops keep from their place, by number.
    Stuck(Vec<Id>),
}

/// Sorts objects that are in their initial order.
pub(super) fn sort(model: &Model, ids: &[Id]) -> Sorted {
    let index = |id: Id| id.0 as usize - 1;
    let mut position = vec![0; model.len()];
    // How many are still to be placed that need this one.
    let mut needed_by = vec![0_usize; model.len()];
    for (place, id) in ids.iter().enumerate() {
        position[index(*id)] = place;
        for on in &model.get(*id).dependencies {
            needed_by[index(*on)] += 1;
        }
    }
    let mut ready: BinaryHeap<usize> =
        ids.iter().filter(|id| needed_by[index(**id)] == 0).map(|id| position[index(*id)]).collect();
    let mut ordered = Vec::with_capacity(ids.len());
    while let Some(place) = ready.pop() {
        let id = ids[place];
        ordered.push(id);
        for on in &model.get(id).dependencies {
            let count = &mut needed_by[index(*on)];
            *count -= 1;
            if *count == 0 {
                ready.push(position[index(*on)]);
            }
        }
    }
    if ordered.len() == ids.len() {
        ordered.reverse();
        return Sorted::All(ordered);
    }
    Sorted::Stuck(model.ids().filter(|id| needed_by[index(*id)] != 0).collect())
}

#[cfg(test)]
mod tests {
    use pgkeep_format::archive::CatalogId;

    use super::*;
    use crate::dump::model::Kind;

    fn model(dependencies: &[&[u32]]) -> (Model, Vec<Id>) {
        let mut model = Model::default();
        for _ in dependencies {
            model.add(CatalogId::default(), "", None, Kind::Conversion);
        }
        for (from, on) in dependencies.iter().enumerate() {
            for on in *on {
                model.depend(Id(u32::try_from(from).unwrap() + 1), Id(*on));
            }
        }
        let ids = model.ids().collect();
        (model, ids)
    }

    fn sorted(dependencies: &[&[u32]]) -> Result<Vec<u32>, Vec<u32>> {
        let (model, ids) = model(dependencies);
        match sort(&model, &ids) {
            Sorted::All(ids) => Ok(ids.iter().map(|id| id.0).collect()),
            Sorted::Stuck(ids) => Err(ids.iter().map(|id| id.0).collect()),
        }
    }

    #[test]
    fn the_given_order_is_kept_where_it_can() {
        assert_eq!(sorted(&[&[], &[], &[]]), Ok(vec![1, 2, 3]));
        // 4 comes last, then 2, since 1 stands before it and 3 is not free before 1 is placed.
        assert_eq!(sorted(&[&[3, 3], &[], &[], &[]]), Ok(vec![3, 1, 2, 4]));
        assert_eq!(sorted(&[&[], &[4], &[], &[1]]), Ok(vec![1, 4, 2, 3]));
    }

    #[test]
    fn loops_and_what_they_need_are_told() {
        assert_eq!(sorted(&[&[2], &[1, 3], &[], &[]]), Err(vec![1, 2, 3]));
        assert_eq!(sorted(&[&[1]]), Err(vec![1]));
    }
}
