//! Windows: xdg-shell, decorations, activation.

use casemate_window_wire::{Request, ToHost, WindowId};
use smithay::{
    delegate_xdg_activation, delegate_xdg_decoration, delegate_xdg_shell,
    reexports::{
        wayland_protocols::xdg::{
            decoration::zv1::server::zxdg_toplevel_decoration_v1::Mode,
            shell::server::xdg_toplevel::ResizeEdge,
        },
        wayland_server::protocol::{wl_output::WlOutput, wl_seat::WlSeat, wl_surface::WlSurface},
    },
    utils::Serial,
    wayland::{
        shell::xdg::{
            Configure, PopupSurface, PositionerState, ToplevelSurface, XdgShellHandler,
            XdgShellState, decoration::XdgDecorationHandler,
        },
        xdg_activation::{
            XdgActivationHandler, XdgActivationState, XdgActivationToken, XdgActivationTokenData,
        },
    },
};

use crate::{
    agent::Agent,
    window::{Role, Window},
};

impl Agent {
    fn change(&mut self, surface: &WlSurface, change: impl FnOnce(&mut Window)) {
        if let Some(id) = self.windows.of(surface)
            && let Some(window) = self.windows.get_mut(id)
        {
            change(window);
            window.renamed = true;
        }
    }

    /// Passes a wish of an app on, with the press that caused it; without one the host would refuse.
    fn request(&mut self, surface: &WlSurface, what: Request, serial: Option<u32>) {
        if let Some(id) = self.announced(surface)
            && let Some(serial) = serial
        {
            self.tell(&ToHost::Request { id, what, serial });
        }
    }

    fn announced(&self, surface: &WlSurface) -> Option<WindowId> {
        let id = self.windows.of(surface)?;
        let window = self.windows.get(id)?;
        window.host.announced.is_some().then_some(id)
    }

    /// The host maximizes and restores by the same request.
    fn toggle_maximized(&mut self, toplevel: &ToplevelSurface, wanted: bool) {
        let surface = toplevel.wl_surface();
        let maximized = self
            .windows
            .of(surface)
            .and_then(|id| self.windows.get(id))
            .and_then(|window| window.configure)
            .is_some_and(|configure| configure.maximized);
        if maximized != wanted {
            let press = self.serials.last_press();
            self.request(surface, Request::Maximize, press);
        }
        answer(toplevel);
    }
}

/// xdg-shell promises an answer to every wish about a window's state, also when nothing comes of it.
fn answer(toplevel: &ToplevelSurface) {
    if toplevel.is_initial_configure_sent() {
        toplevel.send_configure();
    }
}

impl XdgShellHandler for Agent {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState {
        &mut self.protocols.xdg_shell
    }

    fn new_toplevel(&mut self, surface: ToplevelSurface) {
        self.windows.insert(Window::new(Role::Toplevel(surface)));
    }

    fn new_popup(&mut self, surface: PopupSurface, positioner: PositionerState) {
        self.add_popup(surface, positioner);
    }

    fn ack_configure(&mut self, surface: WlSurface, configure: Configure) {
        let serial = match configure {
            Configure::Toplevel(configure) => configure.serial,
            Configure::Popup(configure) => configure.serial,
        };
        if let Some(id) = self.windows.of(&surface)
            && let Some(window) = self.windows.get_mut(id)
        {
            window.answer(serial);
        }
    }

    fn grab(&mut self, surface: PopupSurface, _: WlSeat, _: Serial) {
        self.change(surface.wl_surface(), |window| {
            if let Some(popup) = window.popup_mut() {
                popup.grab = true;
            }
        });
    }

    fn reposition_request(
        &mut self,
        surface: PopupSurface,
        positioner: PositionerState,
        token: u32,
    ) {
        if let Some(id) = self.windows.of(surface.wl_surface()) {
            self.reposition(id, positioner, token);
        }
    }

    fn move_request(&mut self, surface: ToplevelSurface, _: WlSeat, serial: Serial) {
        let press = self.serials.host(serial);
        self.request(surface.wl_surface(), Request::Move, press);
    }

    fn resize_request(
        &mut self,
        surface: ToplevelSurface,
        _: WlSeat,
        serial: Serial,
        _: ResizeEdge,
    ) {
        let press = self.serials.host(serial);
        self.request(surface.wl_surface(), Request::Resize, press);
    }

    fn maximize_request(&mut self, surface: ToplevelSurface) {
        self.toggle_maximized(&surface, true);
    }

    fn unmaximize_request(&mut self, surface: ToplevelSurface) {
        self.toggle_maximized(&surface, false);
    }

    fn fullscreen_request(&mut self, surface: ToplevelSurface, _: Option<WlOutput>) {
        self.change(surface.wl_surface(), |window| {
            window.wants_fullscreen = true;
        });
        answer(&surface);
    }

    fn unfullscreen_request(&mut self, surface: ToplevelSurface) {
        self.change(surface.wl_surface(), |window| {
            window.wants_fullscreen = false;
        });
        answer(&surface);
    }

    fn minimize_request(&mut self, surface: ToplevelSurface) {
        let press = self.serials.last_press();
        self.request(surface.wl_surface(), Request::Minimize, press);
    }

    fn toplevel_destroyed(&mut self, surface: ToplevelSurface) {
        if let Some(id) = self.windows.of(surface.wl_surface()) {
            self.remove_window(id);
        }
    }

    fn popup_destroyed(&mut self, surface: PopupSurface) {
        if let Some(id) = self.windows.of(surface.wl_surface()) {
            self.remove_window(id);
        }
    }

    fn app_id_changed(&mut self, surface: ToplevelSurface) {
        self.change(surface.wl_surface(), |_| {});
    }

    fn title_changed(&mut self, surface: ToplevelSurface) {
        self.change(surface.wl_surface(), |_| {});
    }
}

impl XdgDecorationHandler for Agent {
    fn new_decoration(&mut self, toplevel: ToplevelSurface) {
        toplevel.with_pending_state(|state| state.decoration_mode = Some(Mode::ServerSide));
    }

    fn request_mode(&mut self, toplevel: ToplevelSurface, _: Mode) {
        // The host frames every window, whatever the app would like.
        toplevel.with_pending_state(|state| state.decoration_mode = Some(Mode::ServerSide));
        answer(&toplevel);
    }

    fn unset_mode(&mut self, toplevel: ToplevelSurface) {
        self.request_mode(toplevel, Mode::ServerSide);
    }
}

impl XdgActivationHandler for Agent {
    fn activation_state(&mut self) -> &mut XdgActivationState {
        &mut self.protocols.activation
    }

    fn request_activation(
        &mut self,
        token: XdgActivationToken,
        data: XdgActivationTokenData,
        surface: WlSurface,
    ) {
        let press = data
            .serial
            .and_then(|(serial, _)| self.serials.host(serial));
        match press {
            Some(_) => self.request(&surface, Request::Activate, press),
            None => self.change(&surface, |window| window.attention = true),
        }
        self.protocols.activation.remove_token(&token);
    }
}

delegate_xdg_shell!(Agent);
delegate_xdg_decoration!(Agent);
delegate_xdg_activation!(Agent);
