//! Mistakes on the command line, put into the form of every other error: what is wrong, and the nearest right word.

use clap::error::{ContextKind, ContextValue};
use pgkeep_engine::{Error, ErrorKind};

/// What clap found wrong.
pub(crate) fn usage_error(error: &clap::Error, arguments: &[String]) -> Error {
    let context = |kind| -> Vec<String> {
        let words = words(error.get(kind));
        words.iter().map(|word| name_only(word).to_owned()).collect()
    };
    let argument = context(ContextKind::InvalidArg).into_iter().next().unwrap_or_default();
    let value = context(ContextKind::InvalidValue).into_iter().next().unwrap_or_default();
    let usage = |message: String| Error::new(ErrorKind::Usage, message);
    let verb = verb_of(arguments);
    let help = if verb.is_empty() {
        "`pgkeep help` lists the verbs".to_owned()
    } else {
        format!("`pgkeep help {verb}` explains it")
    };

    use clap::error::ErrorKind as Kind;
    let result = match error.kind() {
        Kind::InvalidSubcommand => {
            let verb = context(ContextKind::InvalidSubcommand).into_iter().next().unwrap_or_default();
            let error = usage(format!("unknown verb `{verb}`"));
            suggest(error, &context(ContextKind::SuggestedSubcommand))
        }
        Kind::MissingSubcommand => usage("a verb is missing".to_owned()),
        Kind::UnknownArgument if argument.starts_with('-') => {
            let error =
                suggest(usage(format!("unknown option `{argument}`")), &context(ContextKind::SuggestedArg));
            if argument == "-h" {
                error.hint(
                    "help is `--help` or `-?`; `-h` names the server's host, for verbs that connect to one",
                )
            } else {
                error
            }
        }
        Kind::UnknownArgument => usage(format!("unexpected argument `{argument}`")),
        Kind::InvalidValue if value.is_empty() => usage(format!("`{argument}` needs a value")),
        Kind::InvalidValue => {
            let known = context(ContextKind::ValidValue);
            let error = usage(format!("`{value}` is not a value for `{argument}`"));
            let error = if known.is_empty() {
                error
            } else {
                let known: Vec<String> = known.iter().map(|value| format!("`{value}`")).collect();
                error.cause(format!("expected one of {}", known.join(", ")))
            };
            suggest(error, &context(ContextKind::SuggestedValue))
        }
        Kind::ValueValidation => {
            let error_ = usage(format!("`{value}` is not a value for `{argument}`"));
            match std::error::Error::source(error) {
                Some(source) => error_.cause(source),
                None => error_,
            }
        }
        Kind::ArgumentConflict => {
            let others = context(ContextKind::PriorArg);
            let other = others.first().map_or("another option", String::as_str);
            if other == argument {
                usage(format!("`{argument}` was given more than once"))
            } else {
                usage(format!("`{argument}` contradicts `{other}`")).hint("give only one of them")
            }
        }
        Kind::MissingRequiredArgument => {
            let missing: Vec<String> =
                context(ContextKind::InvalidArg).iter().map(|argument| format!("`{argument}`")).collect();
            let verb = if missing.len() == 1 { "is" } else { "are" };
            usage(format!("{} {verb} missing", missing.join(" and ")))
        }
        Kind::NoEquals | Kind::WrongNumberOfValues | Kind::TooFewValues | Kind::TooManyValues => {
            usage(format!("wrong number of values for `{argument}`"))
        }
        Kind::InvalidUtf8 => usage("an argument is not UTF-8".to_owned()),
        _ => usage(
            error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        ),
    };
    result.hint(help)
}

fn suggest(error: Error, names: &[String]) -> Error {
    match names.split_first() {
        None => error,
        Some((only, [])) => error.hint(format!("did you mean `{only}`?")),
        Some(_) => {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            error.hint(format!("did you mean one of {}?", names.join(", ")))
        }
    }
}

fn words(value: Option<&ContextValue>) -> Vec<String> {
    match value {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// `--source` of clap's `--source <SOURCE>`, `DIR` of `<DIR>`.
fn name_only(word: &str) -> &str {
    match word.split_once(" <") {
        Some((option, _)) if option.starts_with('-') => option,
        _ => word.strip_prefix('<').and_then(|inner| inner.split_once('>')).map_or(word, |(name, _)| name),
    }
}

/// The verb that was being called, as far as its name was right.
fn verb_of(arguments: &[String]) -> String {
    let mut command = crate::args::command();
    let mut path = Vec::new();
    for argument in arguments {
        if let Some(next) = command.find_subcommand(argument) {
            path.push(argument.as_str());
            command = next.clone();
        }
    }
    path.join(" ")
}
