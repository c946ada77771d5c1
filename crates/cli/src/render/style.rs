//! Colour, only where it was not refused: `NO_COLOR`, and `PG_COLOR` as PostgreSQL's programs read it.

use std::io::IsTerminal;

/// What is coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// `error:`
    Error,
    /// `warning:`
    Warning,
    /// `hint:`
    Hint,
    /// What is as it should be.
    Good,
}

/// Whether one stream takes colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    coloured: bool,
}

impl Palette {
    /// For stderr.
    pub(crate) fn stderr() -> Palette {
        Palette::decide(std::io::stderr().is_terminal())
    }

    /// For stdout.
    pub(crate) fn stdout() -> Palette {
        Palette::decide(std::io::stdout().is_terminal())
    }

    fn decide(is_terminal: bool) -> Palette {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let coloured = match variable("PG_COLOR").as_str() {
            "always" => true,
            "never" => false,
            _ => is_terminal && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb",
        };
        Palette { coloured }
    }

    /// No colour at all.
    #[cfg(test)]
    pub(crate) fn plain() -> Palette {
        Palette { coloured: false }
    }

    /// The text in the colour of its role, those of PostgreSQL's programs.
    pub(crate) fn paint(self, role: Role, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let code = match role {
            Role::Error => "01;31",
            Role::Warning => "01;35",
            Role::Hint => "01;36",
            Role::Good => "32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Whether there is any.
    pub(crate) fn is_coloured(self) -> bool {
        self.coloured
    }
}
