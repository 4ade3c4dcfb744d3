//! Settings: read, or refused with a text that names the setting and shows no secret.

#![expect(clippy::unwrap_used, reason = "a property panics where it does not hold")]

use clap::{CommandFactory as _, Parser as _};

use super::{Cli, bad_value, missing};

/// Stands for a secret.
const SECRET: &str = "hunter2";

/// Whatever a setting is given, it is read or its name and what is allowed are said, and a secret in it is not.
pub fn configuration(setting: usize, value: &str) {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let settings: Vec<_> = run.get_arguments().filter(|arg| arg.get_env().is_some()).collect();
    let arg = settings[setting % settings.len()];
    let (flag, secret) = (format!("--{}", arg.get_long().unwrap()), arg.is_hide_env_values_set());
    let database = (flag != "--database-url").then_some("--database-url=postgres://h/d");
    let arguments = ["postbell", "run"].into_iter().chain(database).map(str::to_owned);
    let Err(error) = Cli::try_parse_from(arguments.chain([format!("{flag}={value}")])) else { return };
    let said = bad_value(&error).or_else(|| missing(&error)).unwrap_or_else(|| error.to_string());
    assert!(said.contains(&flag), "{said}");
    let is_secret = secret || value.contains("://") || value.contains('@');
    assert!(!is_secret || !said.contains(SECRET), "{said}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::random;

    const PIECES: &[&str] = &[
        "postgres://",
        "redis://",
        "rediss://",
        "unix://",
        "https://",
        "u:hunter2@",
        ":hunter2@",
        "hunter2",
        "h",
        "/0",
        "/d",
        "?",
        "sslmode=",
        "require",
        "&",
        ":5432",
        ":99999",
        "=",
        " ",
        "host=h",
        "password=",
        "1",
        "0",
        "-1",
        "5m",
        "1s",
        ",",
        "ms",
        "99999999999999999999",
        "off",
        "127.0.0.1:0",
        "[::]:9464",
        "debug",
        "postbell=trace",
        "[",
        "]",
        "{",
        "}",
        "/.*+(/",
        "text",
        "json",
        "\u{0}",
        "\n",
        "'",
        "\\",
        "%",
        "%zz",
        "#",
        "*",
    ];

    proptest! {
        #![proptest_config(random::cases(250))]

        #[test]
        fn any_value_of_any_setting_is_read_or_refused_by_name(setting in any::<usize>(), value in random::text(PIECES, 8)) {
            configuration(setting, &value);
        }
    }
}
