//! `cargo xtask`: builds Plinth, boots guests on it under QEMU, and tests all of it.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`run`] | from arguments to a running machine and its exit status |
//! | [`manifest`], [`guest`], [`source`], [`image`], [`size`] | which guests, and whether they can boot at all |
//! | [`disks`] | the images of their disks |
//! | [`bundle`] | the one file they are packed into |
//! | [`build`], [`symbols`] | the hypervisor's image and its symbols |
//! | [`board`], [`qemu`], [`console`], [`terminal`] | the machine, its serial line, and the user's terminal |
//! | [`channel`], [`ctl`], [`top`] | the monitor's frames on that line, and who asks over them |
//! | [`rpi4`] | what a Raspberry Pi 4 boots from |
//! | [`apt`], [`debian`], [`initramfs`] | what is fetched from Debian: QEMU and the default guest |
//! | [`mod@bench`] | what Plinth costs, in instructions |
//! | [`mutants`] | which changes of the source no test notices |
//! | [`lint`], [`doctor`], [`suite`] | house rules, what is installed, and everything CI runs |

mod apt;
mod bench;
mod board;
mod bounds;
mod build;
mod bundle;
mod channel;
mod cli;
mod console;
mod ctl;
mod debian;
mod disks;
mod doctor;
mod guest;
mod image;
mod initramfs;
mod lint;
mod manifest;
mod mutants;
mod paths;
mod qemu;
mod rpi4;
mod run;
mod size;
mod source;
mod suite;
mod symbols;
mod terminal;
mod top;

use std::process::ExitCode;

use cli::Task;

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let task = match cli::parse(std::env::args_os()) {
        Ok(task) => task,
        Err(stop) => return stop.report(),
    };
    let done = match task {
        Task::Run(options) => run::run(&options),
        Task::Bundle { manifest, output } => bundle::pack(&manifest, &output),
        Task::Image(options) => rpi4::card::make(&options),
        Task::Ctl(options) => ctl::run(&options),
        Task::Top(options) => top::run(&options),
        Task::Test { filter, bare } => suite::run(filter.as_deref(), bare),
        Task::TestLane { bare } => suite::lane(bare),
        Task::Soak(options) => suite::soak(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Build => build::hypervisor().map(|image| {
            println!("{}", image.raw.display());
            ExitCode::SUCCESS
        }),
        Task::Doctor => doctor::report(),
        Task::Lint => lint::report(),
        Task::Mutants(options) => mutants::run(&options),
        Task::Bounds(options) => bounds::report(&options),
        Task::ExecWithParent { parent, terminal, command } => {
            let owned = if terminal { terminal::own() } else { Ok(()) };
            owned.and_then(|()| qemu::exec_with_parent(parent, &command))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
