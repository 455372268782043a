//! Replays a bundle: `cargo run --release -- BUNDLE [--repeat N] [--features FILE]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bundle_replay::allocations::{self, CountingAllocator};
use bundle_replay::contract::Contract;
use bundle_replay::features::FeatureLibrary;
use bundle_replay::golden::{self, Row};
use bundle_replay::hot_path::HotPath;
use bundle_replay::latency::{Latencies, PERCENTILES};
use bundle_replay::onnx::Runtime;
use bundle_replay::replay::{Found, LIMITS, Mode, Replay};
use bundle_replay::{Result, fail};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const USAGE: &str = "usage: bundle-replay BUNDLE [--repeat N] [--features FILE]
  BUNDLE           folder with contract.json, golden.csv, the graphs and SHA256SUMS
  --repeat N       timed replays of the golden rows (10)
  --features FILE  libfeature_update.so: features come from the bars, and not from golden.csv
ORT_LIB is the path of libonnxruntime.so. Exit status: 0 equal, 1 beyond the limits, 2 an error.";
const REPEATS: usize = 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match read_arguments(&arguments).and_then(|given| run(&given)) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("{}", faults.join("\n"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// What the command was given.
struct Arguments {
    folder: PathBuf,
    repeats: usize,
    features: Option<PathBuf>,
}

fn read_arguments(arguments: &[String]) -> Result<Arguments> {
    let (mut folder, mut repeats, mut features, mut rest) = (None, REPEATS, None, arguments.iter());
    while let Some(argument) = rest.next() {
        if argument == "--repeat" {
            let value = rest.next().map(String::as_str).unwrap_or_default();
            repeats =
                value.parse().map_err(|_| format!("--repeat is {value:?}; it must be a whole number\n{USAGE}"))?;
        } else if argument == "--features" {
            features = Some(rest.next().map_or_else(|| fail!("--features needs a file\n{USAGE}"), Ok)?.into());
        } else if argument.starts_with('-') || folder.is_some() {
            return fail!("{argument:?} is not expected here\n{USAGE}");
        } else {
            folder = Some(PathBuf::from(argument));
        }
    }
    folder.map_or_else(|| fail!("BUNDLE is missing\n{USAGE}"), |folder| Ok(Arguments { folder, repeats, features }))
}

/// Replay a bundle, print what was found, and return what is beyond the limits.
fn run(given: &Arguments) -> Result<Vec<String>> {
    let (runtime, folder) = (Runtime::open()?, &given.folder);
    let contract = Contract::load(folder)?;
    let rows = golden::read_rows(folder, &contract)?;
    let mut hot_path = HotPath::open(&runtime, folder, contract.clone())?;
    let mut mode = Mode::FromFeatures;
    if let Some(file) = &given.features {
        hot_path.compute_features(FeatureLibrary::open(file)?)?;
        mode = Mode::FromBars;
    }
    let mut replay = Replay::new(&contract, &hot_path, mode)?;
    for row in &rows {
        replay.take(&mut hot_path, row)?;
    }
    let found = replay.finish();
    println!("onnxruntime {}, {} rows of {}", runtime.version(), rows.len(), folder.display());
    print_table(&found);
    print_timing(mode, &measure(&mut hot_path, mode, &rows, given.repeats)?);
    Ok(found.iter().flat_map(Found::list_faults).collect())
}

fn print_table(found: &[Found]) {
    let columns =
        ["rows", "max |d|", "mean |d|", "max rel.", "other bits", "targets", "accounts", "positions", "decisions"];
    println!("\n{:<20}{}{:>12}", "model", columns.map(|name| format!("{name:>12}")).concat(), "max |dp|");
    for each in found {
        let differences = [each.max_abs, each.mean_abs(), each.max_relative]
            .map(|value| if each.numbers > 0 { format!("{value:>12.2e}") } else { format!("{:>12}", "-") });
        let counts = [each.other_bits, each.other_targets, each.other_accounts, each.other_positions, each.flipped];
        let counts = counts.map(|count| format!("{count:>12}")).concat();
        println!("{:<20}{:>12}{}{counts}{:>12.2e}", each.name, each.rows, differences.concat(), each.max_position);
    }
    println!(
        "\nd: prediction - golden one, allowed are {:.0e}, mean {:.0e}, relative {:.0e}; other bits: how many differ at all\n\
         targets, accounts, positions: rows that are not exactly what follows from golden numbers; allowed are 0\n\
         decisions: rows at which the own target trades otherwise than the golden one; allowed are 0\n\
         dp: position that follows from own predictions - golden one",
        LIMITS.max_abs, LIMITS.mean_abs, LIMITS.max_relative
    );
}

/// The durations and allocations of updates with features.
struct Timing {
    latencies: Option<Latencies>,
    allocations: usize,
}

/// Return the timing of `repeats` replays of the rows.
fn measure(hot_path: &mut HotPath, mode: Mode, rows: &[Row], repeats: usize) -> Result<Timing> {
    let (mut durations, mut allocations) = (Vec::with_capacity(rows.len() * repeats), 0);
    for _ in 0..repeats {
        hot_path.reset()?;
        for row in rows {
            let (before, start) = (allocations::count(), Instant::now());
            hot_path.update(row.symbol, &row.bar, mode.choose_input(row))?;
            let duration = start.elapsed();
            if row.features.is_some() {
                durations.push(duration.as_nanos() as u64);
                allocations += allocations::count() - before;
            }
        }
    }
    Ok(Timing { latencies: Latencies::new(durations), allocations })
}

fn print_timing(mode: Mode, timing: &Timing) {
    let Some(latencies) = &timing.latencies else { return };
    let what = if mode == Mode::FromBars { "features and all models" } else { "all models" };
    print!("\none bar, {what}, µs, {} bars:", latencies.count());
    for per_mille in PERCENTILES {
        print!("  p{} {:.1}", per_mille as f64 / 10.0, latencies.percentile(per_mille));
    }
    println!("  max {:.1}; allocations {}", latencies.max(), timing.allocations);
}
