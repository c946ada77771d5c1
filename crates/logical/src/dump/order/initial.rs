//! The order before dependencies: class, schema, name, and what else makes a natural key.

use std::cmp::Ordering;

use crate::dump::model::{Id, Kind, Model, catalog};

/// Sorts by class and name.
pub(super) fn sort(model: &Model, ids: &mut [Id]) {
    ids.sort_by(|a, b| compare(model, *a, *b));
}

fn compare(model: &Model, a: Id, b: Id) -> Ordering {
    let (first, second) = (model.get(a), model.get(b));
    let by_schema = match (first.schema, second.schema) {
        (Some(one), Some(other)) => model.get(one).name.as_bytes().cmp(model.get(other).name.as_bytes()),
        // What lies in no schema goes last.
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    first
        .kind
        .priority()
        .cmp(&second.kind.priority())
        .then(by_schema)
        .then_with(|| first.name.as_bytes().cmp(second.name.as_bytes()))
        .then_with(|| variant(&first.kind).cmp(&variant(&second.kind)))
        .then_with(|| by_natural_key(model, &first.kind, &second.kind))
        .then(first.catalog.oid.cmp(&second.catalog.oid))
}

/// Tells classes apart that share a priority.
fn variant(kind: &Kind) -> u8 {
    match kind {
        Kind::ShellType { .. } | Kind::OperatorFamily { .. } => 1,
        _ => 0,
    }
}

fn by_natural_key(model: &Model, a: &Kind, b: &Kind) -> Ordering {
    let name = |id: Id| model.get(id).name.as_bytes();
    match (a, b) {
        (Kind::Function(a), Kind::Function(b)) | (Kind::Aggregate(a), Kind::Aggregate(b)) => {
            let by_count = a.arguments.len().cmp(&b.arguments.len());
            a.arguments
                .iter()
                .zip(&b.arguments)
                .fold(by_count, |order, (a, b)| order.then_with(|| by_type_name(model, *a, *b)))
        }
        (
            Kind::Operator { kind: kind_a, left: left_a, right: right_a },
            Kind::Operator { kind: kind_b, left: left_b, right: right_b },
        ) => kind_b
            .cmp(kind_a)
            .then_with(|| by_type_name(model, *left_a, *left_b))
            .then_with(|| by_type_name(model, *right_a, *right_b)),
        (Kind::OperatorClass { method: a }, Kind::OperatorClass { method: b })
        | (Kind::OperatorFamily { method: a }, Kind::OperatorFamily { method: b }) => {
            let method = |oid| model.find(catalog::ACCESS_METHOD, oid).map(name);
            method(*a).cmp(&method(*b))
        }
        (Kind::Collation { encoding: a }, Kind::Collation { encoding: b }) => a.cmp(b),
        (Kind::Default(a), Kind::Default(b)) => a.column.cmp(&b.column),
        (Kind::Policy { table: a, .. }, Kind::Policy { table: b, .. }) => name(*a).cmp(name(*b)),
        (Kind::Rule(a), Kind::Rule(b)) => name(a.table).cmp(name(b.table)),
        (Kind::Trigger(a), Kind::Trigger(b)) => name(a.table).cmp(name(b.table)),
        (Kind::Constraint(a), Kind::Constraint(b)) | (Kind::ForeignKey(a), Kind::ForeignKey(b)) => {
            match (a.domain, b.domain) {
                (Some(a), Some(b)) => name(a).cmp(name(b)),
                // As domains go before tables.
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => a.table.map(name).cmp(&b.table.map(name)),
            }
        }
        (Kind::DefaultPrivileges { role: a }, Kind::DefaultPrivileges { role: b }) => {
            a.as_bytes().cmp(b.as_bytes())
        }
        (Kind::PublicationTable { publication: a, .. }, Kind::PublicationTable { publication: b, .. })
        | (Kind::PublicationSchema { publication: a }, Kind::PublicationSchema { publication: b }) => {
            name(*a).cmp(name(*b))
        }
        (Kind::SubscriptionTable(a), Kind::SubscriptionTable(b)) => {
            name(a.subscription).cmp(name(b.subscription))
        }
        _ => Ordering::Equal,
    }
}

/// By schema, then by name.
fn by_type_name(model: &Model, a: u32, b: u32) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let key = |oid| {
        let id = model.find(catalog::TYPE, oid)?;
        Some((model.schema_name(id).as_bytes(), model.get(id).name.as_bytes()))
    };
    match (key(a), key(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => Ordering::Equal,
    }
}
