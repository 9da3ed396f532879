//! The port mapper's program (RFC 1833, version 2), for clients that ask where the others are: here.

use crate::mount;
use crate::rpc::Answer;
use crate::wire::{Decoder, Encoder, Garbage};
use nfsserve::nfs;

pub(crate) const PROGRAM: u32 = 100_000;
const VERSION: u32 = 2;
const TCP: u32 = 6;
const NULL: u32 = 0;
const GETPORT: u32 = 3;
const DUMP: u32 = 4;

const PROGRAMS: &[(u32, u32)] = &[(PROGRAM, VERSION), (nfs::PROGRAM, nfs::VERSION), (mount::PROGRAM, mount::VERSION)];

pub(crate) fn answer(version: u32, procedure: u32, arguments: Decoder, port: u16) -> Answer {
    if version != VERSION {
        return Answer::NoVersion(VERSION, VERSION);
    }
    let mut encoder = Encoder::default();
    match procedure {
        NULL => {}
        GETPORT => match mapping(arguments) {
            Ok((program, version, protocol)) => {
                let is_here = protocol == TCP && PROGRAMS.contains(&(program, version));
                encoder.u32(if is_here { u32::from(port) } else { 0 });
            }
            Err(Garbage) => return Answer::Garbage,
        },
        DUMP => {
            for (program, version) in PROGRAMS {
                for word in [1, *program, *version, TCP, u32::from(port)] {
                    encoder.u32(word);
                }
            }
            encoder.u32(0);
        }
        _ => return Answer::NoProcedure,
    }
    encoder.into()
}

fn mapping(mut arguments: Decoder) -> Result<(u32, u32, u32), Garbage> {
    let mapping = (arguments.u32()?, arguments.u32()?, arguments.u32()?);
    arguments.u32()?;
    arguments.end()?;
    Ok(mapping)
}
