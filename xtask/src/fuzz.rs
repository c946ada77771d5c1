//! `cargo xtask fuzz`: every parser's fuzz target for a while, on the stable toolchain.
//!
//! cargo-fuzz wants a nightly compiler for its sanitizers. Safe code needs none of them: coverage counters are enough
//! to guide the fuzzer, and those the stable compiler puts in when told to.

use std::fs;
use std::process::Command;

use pgkeep_testkit::project_root;

use crate::Failure;

/// What cargo-fuzz passes for coverage, without a sanitizer.
const COVERAGE_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// Most memory a target may take, in MiB: a parser that allocates what its input claims is caught by it.
const MEMORY_LIMIT: u32 = 512;

/// What is fuzzed for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Targets to run; all when none is named
    targets: Vec<String>,
}

/// Builds and runs the targets, and stops at the first input that breaks one.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let folder = project_root().join("fuzz");
    let mut all: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    all.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !all.contains(target)) {
        return Err(format!("no fuzz target `{unknown}`; there are: {}", all.join(", ")).into());
    }
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    let host = host_triple()?;
    let build = folder.join("target");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--bins", "--target", &host, "--target-dir"]).arg(&build);
    command.current_dir(&folder).env("RUSTFLAGS", COVERAGE_FLAGS);
    if !command.status()?.success() {
        return Err("the fuzz targets do not build".into());
    }
    for target in chosen {
        let corpus = folder.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        println!("== {target}: {} s", options.seconds);
        let findings = build.join(format!("finding-{target}-"));
        let output = Command::new(build.join(&host).join("release").join(target))
            .arg(&corpus)
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
            .arg(format!("-malloc_limit_mb={}", MEMORY_LIMIT / 2))
            .arg(format!("-artifact_prefix={}", findings.display()))
            .args(["-timeout=10", "-print_final_stats=1", "-verbosity=0"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            println!("{said}");
            return Err(format!("`{target}` broke; the input is {}*", findings.display()).into());
        }
        said.lines().filter(|line| line.starts_with("stat::")).for_each(|line| println!("  {line}"));
    }
    println!("{} fuzz targets ran for {} s each, none broke", chosen.len(), options.seconds);
    Ok(())
}

fn host_triple() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("`rustc -vV` names no host")?.to_owned())
}
