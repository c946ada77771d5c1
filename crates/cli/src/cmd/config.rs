//! `pgkeep config show`.

use std::collections::BTreeMap;

use pgkeep_engine::Result;

use super::Context;
use crate::args::config::{ConfigArgs, ConfigVerb};
use crate::config::secret::hide_passwords;
use crate::config::{Given, Setting};
use crate::{exit, render};

/// One setting under `--json`.
#[derive(serde::Serialize)]
struct Shown {
    value: Option<String>,
    origin: Option<String>,
}

/// Shows the configuration.
pub(super) fn config(context: &Context, args: &ConfigArgs) -> Result<u8> {
    let ConfigVerb::Show(show) = &args.verb;
    let settings: Vec<(&Setting, Option<Given>)> = context
        .resolved
        .winners()
        .map(|(setting, given)| {
            let given = given.map(|given| Given { text: hide_passwords_of(given), ..given.clone() });
            (setting, given)
        })
        .collect();
    render::print(&if context.global.json { json(&settings)? } else { toml(&settings, show.origin) })?;
    Ok(exit::OK)
}

fn hide_passwords_of(given: &Given) -> String {
    if given.path == "connection.conninfo" { hide_passwords(&given.text) } else { given.text.clone() }
}

fn json(settings: &[(&Setting, Option<Given>)]) -> Result<String> {
    let shown: BTreeMap<&str, Shown> = settings
        .iter()
        .map(|(setting, given)| {
            let value = given.as_ref().map(|given| given.text.clone());
            (setting.path, Shown { value, origin: given.as_ref().map(|given| given.origin.to_string()) })
        })
        .collect();
    render::json::object(&serde_json::json!({ "settings": shown }))
}

/// Lines that a configuration file takes.
fn toml(settings: &[(&Setting, Option<Given>)], with_origin: bool) -> String {
    let lines: Vec<(String, String)> = settings
        .iter()
        .map(|(setting, given)| match given {
            Some(given) => {
                // A number that is not one was refused before.
                let value = if setting.number {
                    given.text.clone()
                } else {
                    toml::Value::from(given.text.as_str()).to_string()
                };
                (format!("{} = {value}", setting.path), given.origin.to_string())
            }
            None => (format!("# {}", setting.path), "not set".to_owned()),
        })
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    lines
        .iter()
        .map(
            |(line, origin)| {
                if with_origin { format!("{line:width$}  # {origin}\n") } else { format!("{line}\n") }
            },
        )
        .collect()
}
