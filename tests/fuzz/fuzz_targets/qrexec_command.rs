//! Texts of qrexec: command lines, services, targets and idents as another side wrote them.
#![no_main]

use casemate_qrexec_wire::{CommandLine, EndCall, Execute, Ident, ServiceCall, Target, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(line) = CommandLine::new(input)
        && let Ok(command) = Execute::parse(&line)
    {
        assert_eq!(command.command_line().as_ref(), Ok(&line));
        if let Some(order) = EndCall::parse(&line) {
            let again = order.command_line("dom0");
            assert_eq!(again.ok().as_ref().and_then(EndCall::parse), Some(order));
        }
    }
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if let Ok(call) = ServiceCall::sanitise(input) {
        assert!(call.full().bytes().all(harmless) && call.full().len() < limits::MAX_SERVICE_CALL);
        assert_eq!(
            format!("{}{}", call.service(), call.argument()),
            call.full()
        );
        assert!(!matches!(call.service(), "" | "." | "..") && !call.service().contains('+'));
        assert_eq!(ServiceCall::sanitise(call.full().as_bytes()), Ok(call));
    }
    let target = Target::sanitise(input);
    assert!(target.as_str().len() < limits::TARGET_FIELD);
    assert_eq!(Target::sanitise(target.as_str().as_bytes()), target);
    if let Some(field) = input.first_chunk()
        && let Ok(ident) = Ident::from_field(*field)
    {
        assert_eq!(Ident::new(&ident.to_string()), Ok(ident));
    }
});
