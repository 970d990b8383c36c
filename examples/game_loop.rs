//! A game loop: a thread draws frames at its own pace, and reads the messages that arrived since the last frame. It
//! never waits for a message, and a flood of messages takes only a limited part of a frame.
//!
//! `cargo run --example game_loop`.

use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use fanwire::bus::DeliveryRef;
use fanwire::{Bus, Predicate, Subscriber};

const FRAME: Duration = Duration::from_millis(16);
/// Maximum number of moves that are read in a frame.
const MOVES_A_FRAME: usize = 256;

/// Position of a player, as the network thread decodes it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Move {
    pub(crate) player: u32,
    pub(crate) x: f32,
    pub(crate) y: f32,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) players: [(f32, f32); 4],
    pub(crate) frames: u64,
    /// Moves that were overwritten unread: harmless, because a later one of each player follows.
    pub(crate) missed: u64,
}

impl World {
    /// Reads the available moves, and draws a frame.
    pub(crate) fn frame(&mut self, moves: &mut Subscriber<Move>) {
        moves.visit_batch(MOVES_A_FRAME, |delivery| match delivery {
            DeliveryRef::Event(new) => {
                if let Some(place) = self.players.get_mut(new.player as usize) {
                    *place = (new.x, new.y);
                }
            }
            DeliveryRef::Gap(gap) => self.missed += gap.missed,
        });
        self.frames += 1;
    }
}

fn main() {
    let moves = Bus::builder().carrying::<Move>().capacity(1024).build().expect("a power of two");
    let mut reader = moves.subscribe(Predicate::all());
    let network = std::thread::spawn(move || {
        for n in 0..100_000_u32 {
            moves.publish(Move { player: n % 4, x: n as f32, y: -(n as f32) });
            std::thread::sleep(Duration::from_micros(20));
        }
    });
    let mut world = World::default();
    // The game ends when the bus is closed and all moves are read.
    while !(reader.is_closed() && reader.lag() == 0) {
        let begun = Instant::now();
        world.frame(&mut reader);
        if world.frames.is_multiple_of(60) {
            println!("{world:?}");
        }
        std::thread::sleep(FRAME.saturating_sub(begun.elapsed()));
    }
    network.join().expect("no panic");
}
