//! Surfaces, buffers and the small protocols about them.

use casemate_window_wire::WindowId;
use smithay::{
    backend::renderer::utils::on_commit_buffer_handler,
    delegate_compositor, delegate_fractional_scale, delegate_output, delegate_presentation,
    delegate_shm, delegate_single_pixel_buffer, delegate_viewporter,
    reexports::wayland_server::{
        Client,
        backend::{ClientData, ClientId, DisconnectReason},
        protocol::{wl_buffer::WlBuffer, wl_surface::WlSurface},
    },
    wayland::{
        buffer::BufferHandler,
        compositor::{
            CompositorClientState, CompositorHandler, CompositorState, get_parent,
            is_sync_subsurface, with_states,
        },
        fractional_scale::{FractionalScaleHandler, with_fractional_scale},
        output::OutputHandler,
        shm::{ShmHandler, ShmState},
    },
};

use crate::{agent::Agent, canvas, host, window::Role};

/// What is kept per app.
#[derive(Debug, Default)]
pub(crate) struct ClientState {
    compositor: CompositorClientState,
}

impl ClientData for ClientState {
    fn initialized(&self, client: ClientId) {
        tracing::debug!(?client, "app connected");
    }

    fn disconnected(&self, client: ClientId, reason: DisconnectReason) {
        tracing::debug!(?client, ?reason, "app gone");
    }
}

impl CompositorHandler for Agent {
    fn compositor_state(&mut self) -> &mut CompositorState {
        &mut self.protocols.compositor
    }

    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        match client.get_data::<ClientState>() {
            Some(state) => &state.compositor,
            // `listen` is the only place that admits clients, and gives each this state.
            None => unreachable!("an app without state"),
        }
    }

    fn commit(&mut self, surface: &WlSurface) {
        on_commit_buffer_handler::<Self>(surface);
        if is_sync_subsurface(surface) {
            return;
        }
        let root = std::iter::successors(Some(surface.clone()), get_parent).last();
        let Some(id) = root.and_then(|root| self.windows.of(&root)) else {
            return;
        };
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        window.dirty = true;
        if window.surface() != surface {
            return;
        }
        window.renamed = true;
        window.in_force = window.answered;
        let mapped = canvas::has_buffer(surface);
        let hidden = std::mem::replace(&mut window.mapped, mapped) && !mapped;
        if !mapped {
            self.commit_without_content(id, hidden);
        }
    }
}

impl Agent {
    /// A window's app has committed it without content: to begin its life, or `hidden` to end it.
    fn commit_without_content(&mut self, id: WindowId, hidden: bool) {
        let ready = self.is_ready();
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        match &window.role {
            Role::Toplevel(toplevel) if hidden => {
                window.wants_configure = false;
                toplevel.reset_initial_configure_sent();
            }
            Role::Toplevel(toplevel) => {
                let again = !std::mem::replace(&mut window.wants_configure, true);
                // The host wishes only once by itself; a window that comes back gets the last wish again.
                if again
                    && window.host.configured
                    && let Some(configure) = window.configure
                {
                    let sent = host::send_configure(toplevel, &configure);
                    window.unanswered.push((sent, configure.serial));
                }
            }
            // Nobody could place it without a host.
            Role::Popup(_) if hidden || !ready => self.dismiss_tree(id),
            Role::Popup(_) => window.wants_configure = true,
        }
    }
}

impl BufferHandler for Agent {
    fn buffer_destroyed(&mut self, _: &WlBuffer) {}
}

impl ShmHandler for Agent {
    fn shm_state(&self) -> &ShmState {
        &self.protocols.shm
    }
}

impl OutputHandler for Agent {}

impl FractionalScaleHandler for Agent {
    fn new_fractional_scale(&mut self, surface: WlSurface) {
        with_states(&surface, |states| {
            with_fractional_scale(states, |scale| scale.set_preferred_scale(1.0));
        });
    }
}

delegate_compositor!(Agent);
delegate_shm!(Agent);
delegate_output!(Agent);
delegate_viewporter!(Agent);
delegate_fractional_scale!(Agent);
delegate_single_pixel_buffer!(Agent);
delegate_presentation!(Agent);
