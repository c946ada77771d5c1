//! Authentication: cleartext, md5, SCRAM-SHA-256 with and without channel binding, and what `require_auth` and
//! `channel_binding` allow of it (protocol 3.0, `libpq/pqcomm.h`; libpq's `fe-auth.c` up to 18).
//!
//! A method that the user did not allow is refused before anything is answered, and a server that claims success
//! without having been proved, where proof was asked for, is not believed. GSSAPI and SSPI are refused by name.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use crate::connection::SessionMode;
use crate::error::{ServerError, ServerErrorKind, WireError};
use crate::host::Target;
use crate::message::Fields;
use crate::password_file::{self, Lookup, Wanted};
use crate::raw_text::raw_bytes;
use crate::settings::{ChannelBindingMode, Password, Settings};
use crate::stream::Transport;
use crate::tls;

/// What to do after a message of the server.
pub(crate) enum Progress {
    /// Send the bytes that were written.
    Answer,
    /// Wait for the next message.
    Continue,
}

/// The state of one authentication exchange.
pub(crate) struct Authentication<'a> {
    settings: &'a Settings,
    target: &'a Target,
    mode: SessionMode,
    /// Whether the session is encrypted, and the hash for channel binding when the certificate has one.
    encrypted: bool,
    channel_binding: Option<Vec<u8>>,
    scram: Option<ScramSha256>,
    /// SCRAM has proved that the server knows the password too.
    server_proved: bool,
    bound: bool,
    /// The method that the server asked for, in the words of `require_auth`.
    method: Option<&'static str>,
    complete: bool,
    password_source: Option<String>,
}

impl<'a> Authentication<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        target: &'a Target,
        mode: SessionMode,
        transport: &Transport,
    ) -> Authentication<'a> {
        Authentication {
            settings,
            target,
            mode,
            encrypted: transport.is_tls(),
            channel_binding: tls::channel_binding(transport),
            scram: None,
            server_proved: false,
            bound: false,
            method: None,
            complete: false,
            password_source: None,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Works on one Authentication message; an answer goes to `out`.
    pub(crate) fn handle(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Progress, WireError> {
        let mut fields = Fields(body);
        if self.complete {
            return Err(WireError::protocol("authentication goes on after its end"));
        }
        match fields.i32()? {
            0 => self.accept().map(|()| Progress::Continue),
            3 => {
                self.allow("password")?;
                let password = self.password()?;
                frontend::password_message(&raw_bytes(password.reveal()), out).map_err(not_sendable)?;
                Ok(Progress::Answer)
            }
            5 => {
                self.allow("md5")?;
                let mut salt = [0; 4];
                salt.copy_from_slice(fields.bytes(4)?);
                let password = self.password()?;
                let hash = md5_hash(&raw_bytes(&self.settings.user), &raw_bytes(password.reveal()), salt);
                frontend::password_message(hash.as_bytes(), out).map_err(not_sendable)?;
                Ok(Progress::Answer)
            }
            10 => self.begin_scram(fields, out),
            11 => self.continue_scram(fields.0, out),
            12 => self.finish_scram(fields.0),
            7 | 8 => Err(WireError::Unsupported(
                "the server asks for GSSAPI authentication, which is not supported".into(),
            )),
            9 => Err(WireError::Unsupported(
                "the server asks for SSPI authentication, which is not supported".into(),
            )),
            other => Err(WireError::Unsupported(format!(
                "the server asks for unknown authentication method {other}"
            ))),
        }
    }

    /// Gives a server error during the exchange its meaning.
    pub(crate) fn explain(&self, error: ServerError) -> WireError {
        if error.kind() == ServerErrorKind::WrongPassword && self.method.is_some() {
            return WireError::AuthFailed {
                user: self.settings.user.clone(),
                password_source: self.password_source.clone(),
                source: Box::new(error),
            };
        }
        Box::new(error).into()
    }

    /// AuthenticationOk: everything that was required must have happened.
    fn accept(&mut self) -> Result<(), WireError> {
        if self.scram.is_some() && !self.server_proved {
            return Err(WireError::AuthRefused("the server did not finish the SCRAM exchange".to_owned()));
        }
        if self.method.is_none() && !self.settings.require_auth.allows("none") {
            return Err(WireError::AuthRefused(
                "`require_auth` asks for an authentication method, but the server did not authenticate us"
                    .to_owned(),
            ));
        }
        if self.settings.channel_binding == ChannelBindingMode::Require && !self.bound {
            return Err(WireError::AuthRefused(
                "`channel_binding=require`, but the server authenticated us without channel binding"
                    .to_owned(),
            ));
        }
        self.complete = true;
        Ok(())
    }

    fn allow(&mut self, method: &'static str) -> Result<(), WireError> {
        if !self.settings.require_auth.allows(method) {
            return Err(WireError::AuthRefused(format!(
                "the server asks for method `{method}`, which `require_auth` does not allow"
            )));
        }
        if self.settings.channel_binding == ChannelBindingMode::Require && method != "scram-sha-256" {
            return Err(WireError::AuthRefused(format!(
                "`channel_binding=require`, but the server asks for method `{method}`"
            )));
        }
        if self.method.is_some() {
            return Err(WireError::protocol("the server asks for authentication twice"));
        }
        self.method = Some(method);
        Ok(())
    }

    fn password(&mut self) -> Result<Password, WireError> {
        if let Some(password) = &self.settings.password {
            return Ok(password.clone());
        }
        if let Some(path) = &self.settings.password_file {
            let hosts: Vec<&str> = self.target.password_hosts.iter().map(String::as_str).collect();
            let mut databases = vec![self.settings.database.as_str()];
            if self.mode != SessionMode::Sql {
                databases.push("replication");
            }
            let wanted = Wanted {
                hosts: &hosts,
                port: self.target.port,
                databases: &databases,
                user: &self.settings.user,
            };
            match password_file::lookup(path, &wanted) {
                Lookup::Found(password) => {
                    self.password_source = Some(path.display().to_string());
                    return Ok(password);
                }
                Lookup::NotFound => {}
                Lookup::Ignored(reason) => {
                    return Err(WireError::PasswordFileIgnored {
                        user: self.settings.user.clone(),
                        endpoint: self.target.endpoint.clone(),
                        reason,
                    });
                }
            }
        }
        Err(WireError::PasswordMissing {
            user: self.settings.user.clone(),
            endpoint: self.target.endpoint.clone(),
        })
    }

    fn begin_scram(&mut self, mut fields: Fields<'_>, out: &mut BytesMut) -> Result<Progress, WireError> {
        self.allow("scram-sha-256")?;
        let (mut plain, mut plus) = (false, false);
        while let Ok(name) = fields.c_string() {
            match name {
                b"" => break,
                name if name == SCRAM_SHA_256.as_bytes() => plain = true,
                name if name == SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
                _ => {}
            }
        }
        if plus && !self.encrypted {
            return Err(WireError::AuthRefused(
                "the server offers channel binding on a plain connection".to_owned(),
            ));
        }
        let mode = self.settings.channel_binding;
        let (mechanism, binding) = match (&self.channel_binding, plus) {
            (Some(hash), true) if mode != ChannelBindingMode::Disable => {
                self.bound = true;
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone()))
            }
            _ if mode == ChannelBindingMode::Require => {
                return Err(WireError::AuthRefused(
                    "`channel_binding=require`, but the server or its certificate does not support it"
                        .to_owned(),
                ));
            }
            // Saying that we could have bound makes a server that was stripped of its offer refuse.
            (Some(_), false) if plain && mode != ChannelBindingMode::Disable => {
                (SCRAM_SHA_256, ChannelBinding::unrequested())
            }
            _ if plain => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => {
                return Err(WireError::Unsupported(
                    "the server offers no SASL mechanism that is supported here".to_owned(),
                ));
            }
        };
        let password = self.password()?;
        let scram = ScramSha256::new(&raw_bytes(password.reveal()), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out).map_err(not_sendable)?;
        self.scram = Some(scram);
        Ok(Progress::Answer)
    }

    fn continue_scram(&mut self, message: &[u8], out: &mut BytesMut) -> Result<Progress, WireError> {
        let scram = self.scram.as_mut().ok_or_else(|| WireError::protocol("SASL goes on before it began"))?;
        scram.update(message).map_err(refused)?;
        frontend::sasl_response(scram.message(), out).map_err(not_sendable)?;
        Ok(Progress::Answer)
    }

    fn finish_scram(&mut self, message: &[u8]) -> Result<Progress, WireError> {
        let scram = self.scram.as_mut().ok_or_else(|| WireError::protocol("SASL ends before it began"))?;
        scram.finish(message).map_err(refused)?;
        self.server_proved = true;
        Ok(Progress::Continue)
    }
}

/// The exchange went wrong on the server's side: it does not know the password, or talks nonsense.
fn refused(error: std::io::Error) -> WireError {
    WireError::AuthRefused(format!("SCRAM: {}", crate::error::Printable(&error.to_string())))
}

fn not_sendable(error: std::io::Error) -> WireError {
    WireError::from_io(error, "logging in")
}
