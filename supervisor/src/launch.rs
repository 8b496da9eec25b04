//! Starting one vmm: volumes, memory, sockets, the record of it all, the process, and the two services.
//!
//! Whatever fails, no process stays behind; files are removed by the clean-up that follows every end.

use std::{
    fs::{DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt as _},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vm::{VmName, VmSpec};
use casemate_vmm_control::{Event, LinkKind, ring_log};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    attach,
    cgroup::{Group, Limits},
    control::{Control, listen_at},
    handover::{self, Ends, Frozen},
    house::House,
    machine::Machine,
    own_file,
    process::Process,
    refusal::{Kind, Refusal},
    run_record::RunRecord,
    spawn,
    volumes::StartVolumes,
};

/// Window memory of every VM, in bytes: the host's pages are taken only where the guest draws.
const WINDOW_MEMORY: u64 = 256 * 1024 * 1024;

/// How long a vmm may take until it speaks on its control socket.
const FIRST_EVENT: Duration = Duration::from_secs(30);

/// What is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: VmName,
    pub(crate) spec: VmSpec,
    pub(crate) uuid: String,
    /// The VM that a disposable is made for.
    pub(crate) made_for: Option<VmName>,
}

/// What a VM has instead of fresh volumes and a boot.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) volumes: StartVolumes,
    /// Absent: it boots.
    pub(crate) frozen: Option<Frozen>,
}

/// Starts a vmm and attaches it to both services. With `given` its record says that it is unfinished, until whoever gives
/// says otherwise.
pub(crate) async fn launch(
    house: Arc<House>,
    plan: Plan,
    given: Option<Given>,
) -> Result<Machine, Refusal> {
    // First the services: when they cannot run, nothing was made.
    let _broker = house.broker.connection().await?;
    let _compositor = house.compositor.connection().await?;
    let program = house
        .paths
        .program("casemate-vmm")
        .map_err(|error| Refusal::failed(format!("{error:#}")))?;
    let prepared = {
        let (house, plan) = (Arc::clone(&house), plan.clone());
        spawn_blocking(move || prepare(&house, &plan, given))
            .await
            .map_err(|error| Refusal::failed(error.to_string()))??
    };
    let Prepared {
        mut record,
        launch,
        files,
        group,
        window_memory,
        broker,
        compositor,
    } = prepared;
    let log = house.paths.log(&format!("{}.vmm.log", plan.name));
    let pid = spawn::vmm(&program, &launch, files, &group, &log).await?;
    let process = Process::open(pid).map_err(|error| {
        Refusal::io(
            "its vmm ended as soon as it was started; see its log",
            &error,
        )
    })?;
    record.process = Some(process.id());
    let result = join(
        &house,
        &plan.name,
        &record,
        &window_memory,
        broker,
        compositor,
    )
    .await;
    match result {
        Ok(control) => Ok(Machine::new(
            record,
            control,
            Some(process),
            Some(window_memory),
            house.settings.watchdog(),
        )),
        Err(refusal) => {
            process.kill();
            process.ended().await;
            Err(refusal)
        }
    }
}

/// Everything that can be made before there is a process.
struct Prepared {
    record: RunRecord,
    launch: casemate_vmm_control::Launch,
    files: handover::Descriptors,
    group: Group,
    window_memory: OwnedFd,
    broker: PacketSocket,
    compositor: PacketSocket,
}

fn prepare(house: &House, plan: &Plan, given: Option<Given>) -> Result<Prepared, Refusal> {
    let Plan { name, spec, .. } = plan;
    let unfinished = given.is_some();
    let Given { volumes, frozen } = match given {
        Some(given) => given,
        None => Given {
            volumes: house.volumes.for_start(name, spec)?,
            frozen: None,
        },
    };
    let record = RunRecord {
        id: house.ids.next_id()?,
        revision: volumes.revision,
        uuid: plan.uuid.clone(),
        agent_reported: false,
        unfinished,
        made_for: plan.made_for.clone(),
        ends_with_call: None,
        process: None,
        spec: spec.clone(),
    };
    let wrap = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Refusal::io(what, &error)
    };
    let window_memory = window_memory().map_err(wrap("no window memory"))?;
    let console_log =
        console_log(&house.paths.log(&format!("{name}.ring"))).map_err(wrap("no console log"))?;
    let folder = house.paths.vm_runtime(name);
    own_folder(&folder).map_err(wrap("no folder for its sockets"))?;
    let control = listen_at(&folder.join("control")).map_err(wrap("no control socket"))?;
    let (vmm_broker, broker) = PacketSocket::pair().map_err(wrap("no link"))?;
    let (vmm_compositor, compositor) = PacketSocket::pair().map_err(wrap("no link"))?;
    let ends = Ends {
        window_memory: attach::copy(window_memory.as_fd())?,
        console_log: console_log.into(),
        control,
        broker: vmm_broker.into(),
        compositor: vmm_compositor.into(),
    };
    let (launch, files) = handover::describe(name, record.id, spec, volumes, frozen, ends)
        .map_err(|error| Refusal::failed(error.to_string()))?;
    let limits = Limits::of(spec, WINDOW_MEMORY);
    let group = house
        .limiter
        .make(name, &limits)
        .map_err(wrap("no control group"))?;
    house
        .records
        .write(name, &record)
        .map_err(wrap("cannot write its record"))?;
    Ok(Prepared {
        record,
        launch,
        files,
        group,
        window_memory,
        broker,
        compositor,
    })
}

/// Records the process, hears its first word, and makes it known to the services.
async fn join(
    house: &Arc<House>,
    name: &VmName,
    record: &RunRecord,
    window_memory: &OwnedFd,
    broker: PacketSocket,
    compositor: PacketSocket,
) -> Result<Control, Refusal> {
    house.update_record(name, record.clone()).await?;
    let control = Control::connect(&house.paths.vm_runtime(name).join("control"))
        .map_err(|error| Refusal::io("cannot connect to its vmm", &error))?;
    match timeout(FIRST_EVENT, control.receive()).await {
        Ok(Ok(Event::State { .. })) => {}
        Ok(Ok(other)) => {
            return Err(Refusal::failed(format!("its vmm began with {other:?}")));
        }
        Ok(Err(error)) => {
            return Err(Refusal::failed(format!(
                "its vmm failed: {error}; see its log"
            )));
        }
        Err(_) => {
            return Err(Refusal::new(
                Kind::TimedOut,
                "its vmm said nothing on its control socket for 30 seconds",
            ));
        }
    }
    attach::attach(house, LinkKind::Rpc, name, record, broker, None).await?;
    let memory = attach::copy(window_memory.as_fd())?;
    attach::attach(
        house,
        LinkKind::Windows,
        name,
        record,
        compositor,
        Some(memory),
    )
    .await?;
    Ok(control)
}

/// A sparse memfd that nobody can shrink: the compositor maps it and must not be killed by a fault.
fn window_memory() -> io::Result<OwnedFd> {
    let memory = memfd_create(
        "casemate-windows",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    ftruncate(&memory, WINDOW_MEMORY)?;
    fcntl_add_seals(
        &memory,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}

/// Makes a folder that only we may enter. What is there already must be one: a link would lead elsewhere.
fn own_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let metadata = std::fs::symlink_metadata(path)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !ours || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a directory of ours with mode 0700; remove it",
            path.display()
        )));
    }
    Ok(())
}

/// An empty ring log of full size; the vmm writes the header. The log of the run before goes.
fn console_log(path: &Path) -> io::Result<File> {
    let file = own_file::open(path, false)?;
    file.set_len(0)?;
    let length =
        u64::try_from(ring_log::HEADER_LEN + ring_log::RING_LEN).map_err(io::Error::other)?;
    file.set_len(length)?;
    Ok(file)
}
