//! The seat, and what follows the keyboard: clipboard, primary selection, drag and drop, all inside this VM.

use std::os::fd::OwnedFd;

use smithay::{
    delegate_cursor_shape, delegate_data_device, delegate_primary_selection, delegate_seat,
    input::{Seat, SeatHandler, SeatState, pointer::CursorImageStatus},
    reexports::wayland_server::{Resource as _, protocol::wl_surface::WlSurface},
    wayland::{
        selection::{
            SelectionHandler,
            data_device::{
                ClientDndGrabHandler, DataDeviceHandler, DataDeviceState, ServerDndGrabHandler,
                set_data_device_focus,
            },
            primary_selection::{
                PrimarySelectionHandler, PrimarySelectionState, set_primary_focus,
            },
        },
        tablet_manager::TabletSeatHandler,
    },
};

use crate::agent::Agent;

impl SeatHandler for Agent {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;

    fn seat_state(&mut self) -> &mut SeatState<Self> {
        &mut self.protocols.seat
    }

    fn focus_changed(&mut self, seat: &Seat<Self>, focused: Option<&WlSurface>) {
        let client = focused.and_then(|surface| self.display.get_client(surface.id()).ok());
        set_data_device_focus(&self.display, seat, client.clone());
        set_primary_focus(&self.display, seat, client);
    }

    fn cursor_image(&mut self, _: &Seat<Self>, image: CursorImageStatus) {
        self.cursor_changed(&image);
    }
}

impl TabletSeatHandler for Agent {}

impl SelectionHandler for Agent {
    type SelectionUserData = ();
}

impl DataDeviceHandler for Agent {
    fn data_device_state(&self) -> &DataDeviceState {
        &self.protocols.data_device
    }
}

impl ClientDndGrabHandler for Agent {}

impl ServerDndGrabHandler for Agent {
    /// Only drags that this program itself started would ask for data; it starts none.
    fn send(&mut self, _: String, _: OwnedFd, _: Seat<Self>) {}
}

impl PrimarySelectionHandler for Agent {
    fn primary_selection_state(&self) -> &PrimarySelectionState {
        &self.protocols.primary_selection
    }
}

delegate_seat!(Agent);
delegate_data_device!(Agent);
delegate_primary_selection!(Agent);
delegate_cursor_shape!(Agent);
