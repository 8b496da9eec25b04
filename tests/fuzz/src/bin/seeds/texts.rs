//! Seeds that are texts or single messages: policies, command lines, JSON, links, logs.

use std::error::Error;

use casemate_vm::{Mebibytes, VmClass, VmId};
use casemate_vmm_control::{
    CpuModel, Disk, DiskFormat, Event, KernelFormat, Launch, LaunchLink, LinkKind, LinkMessage,
    Phase, Sound, StopReason, encode, ring_log::RingLog,
};

use crate::Seed;

const POLICY: &str = "# comment\n\
    qubes.Filecopy * work @default ask target=untrusted default_target=untrusted notify=yes\n\
    qubes.Filecopy +x @tag:trusted @anyvm allow user=root autostart=no\n\
    a * @type:AppVM @dispvm allow\n\
    * * @anyvm @dispvm:debian ask\n\
    * * @anyvm @anyvm deny notify=no\n\
    * * @anyvm @adminvm deny\n";

const INCLUDES: &str = "!include include/1\n!include-dir include\n\
    !include-service qubes.Filecopy * include/2.policy\n\
    * * @anyvm @anyvm deny\n\0\
    a +b work @dispvm:@tag:net allow target=@dispvm:debian\n\0\
    work untrusted allow\n$anyvm $anyvm ask,default_target=work\n";

pub(crate) fn all() -> Result<Vec<Seed>, Box<dyn Error>> {
    let mut log = RingLog::new();
    let _ = log.append(b"login:").count();
    let small = [&log.encode()[..], b"login:"].concat();
    let _ = log.append(&[b'x'; 2_000_000]).count();
    let wrapped = [&log.encode()[..], b"console output"].concat();
    let event = |event| encode::<Event>(&event);
    let what = "no such \"link\"".to_owned();
    let state = Event::State {
        phase: Phase::Running,
        pid: Some(1234),
    };
    let stopped = Event::Stopped {
        reason: StopReason::PowerOff,
    };
    Ok(vec![
        ("policy_parse", "rules", POLICY.into()),
        ("policy_parse", "includes", INCLUDES.into()),
        ("qrexec_command", "shell", b"user:nogui:uname -a".to_vec()),
        (
            "qrexec_command",
            "service",
            b"DEFAULT:QUBESRPC qubes.Filecopy+ work".to_vec(),
        ),
        (
            "qrexec_command",
            "target",
            b"root:QUBESRPC admin.vm.List+ work keyword adminvm".to_vec(),
        ),
        ("qrexec_command", "name", b"qubes.OpenInVM+a.b-c_d".to_vec()),
        (
            "qrexec_command",
            "end",
            b"DEFAULT:nogui:QUBESRPC casemate.EndCall+3.514 dom0".to_vec(),
        ),
        (
            "qrexec_command",
            "ident",
            b"SOCKET11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        ("vmm_event", "state", event(state)),
        ("vmm_event", "stopped", event(stopped)),
        ("vmm_event", "failed", event(Event::Failed { what })),
        ("launch", "full", encode(&launch()?)),
        (
            "link_message",
            "offer",
            LinkMessage::Offer { port: 512 }.encode().into(),
        ),
        (
            "link_message",
            "withdraw",
            LinkMessage::Withdraw { port: 769 }.encode().into(),
        ),
        (
            "link_message",
            "cut",
            LinkMessage::Cut { port: 513 }.encode().into(),
        ),
        ("ring_log", "small", small),
        ("ring_log", "wrapped", wrapped),
        ("ring_log", "empty", RingLog::new().encode().into()),
    ])
}

fn launch() -> Result<Launch, Box<dyn Error>> {
    let disk = |serial: &str, read_only, format| Disk {
        serial: serial.to_owned(),
        read_only,
        format,
    };
    Ok(Launch {
        name: "work".parse()?,
        id: VmId(3),
        class: VmClass::Cloneable,
        memory: Mebibytes(512).try_into()?,
        vcpus: 2_u8.try_into()?,
        cpu: CpuModel::Host,
        cmdline: "root=/dev/vda ro".to_owned(),
        kernel: 10,
        kernel_format: KernelFormat::Elf,
        initrd: 11,
        restore: None,
        disks: vec![
            disk("root", false, DiskFormat::Overlay { file: 12, base: 13 }),
            disk("private", true, DiskFormat::Raw { file: 14 }),
        ],
        window_memory: Some(15),
        console_log: 16,
        control: 17,
        networks: Vec::new(),
        balloon: true,
        assigned: None,
        sound: Some(Sound {
            speaker: Some(19),
            can_record: true,
        }),
        links: vec![LaunchLink {
            kind: LinkKind::Rpc,
            file: 18,
        }],
        kvm: None,
    })
}
