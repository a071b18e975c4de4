//! `[tls]`: by which certificate clients know this machine, and which of theirs it asks for.

use std::path::{Path, PathBuf};

use super::{ConfigError, raw::RawTls, resolved::Fields};

/// The certificate by which clients know this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates as PEM, this machine's first.
    pub cert_file: PathBuf,
    /// Its private key as PEM.
    pub key_file: PathBuf,
    /// The authority that has signed the machines' certificates, for the commands that take `--config`; `None`: what stands in
    /// `cert_file` is believed.
    pub ca_file: Option<PathBuf>,
    /// Whose clients are let in; `None`: anybody's.
    pub clients: Option<ClientCertificates>,
}

/// The certificates that clients show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that sign them, as PEM.
    pub ca_file: PathBuf,
    /// Whether a connection without one is refused; otherwise only one with a wrong certificate is.
    pub required: bool,
}

impl Tls {
    pub(super) fn of(fields: &Fields<'_>, folder: &Path, raw: RawTls) -> Result<Option<Tls>, ConfigError> {
        let required = match raw.client_certificates.as_deref() {
            None | Some("required") => true,
            Some("optional") => false,
            Some(other) => {
                let expected = "\"required\" or \"optional\"";
                return Err(fields.error("tls.client_certificates", format!("{other:?}"), expected));
            }
        };
        if raw.client_certificates.is_some() && raw.client_ca_file.is_none() {
            let expected = "the authorities of tls.client_certificates";
            return Err(fields.error("tls.client_ca_file", "nothing", expected));
        }
        let clients =
            raw.client_ca_file.map(|file| ClientCertificates { ca_file: folder.join(file), required });
        match (raw.cert_file, raw.key_file) {
            (None, None) if clients.is_some() => {
                let expected = "this machine's own certificate beside tls.client_ca_file";
                Err(fields.error("tls.cert_file", "nothing", expected))
            }
            (None, None) if raw.ca_file.is_some() => Err(fields.error(
                "tls.ca_file",
                "no tls.cert_file beside it",
                "tls.cert_file and tls.key_file, too",
            )),
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let ca_file = raw.ca_file.map(|file| folder.join(file));
                Ok(Some(Tls { cert_file: folder.join(cert), key_file: folder.join(key), ca_file, clients }))
            }
            (Some(_), None) => Err(fields.error("tls.key_file", "nothing", "the key of tls.cert_file")),
            (None, Some(_)) => {
                Err(fields.error("tls.cert_file", "nothing", "the certificate of tls.key_file"))
            }
        }
    }

    /// Whether nobody comes in without a certificate of a known authority.
    #[must_use]
    pub fn admits_only_known(&self) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.required)
    }

    /// All files that it is made of.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let own = [self.cert_file.as_path(), self.key_file.as_path()];
        own.into_iter().chain(self.clients.iter().map(|clients| clients.ca_file.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn read(listen: &str, tls: &str) -> Result<Config, String> {
        let text = format!(
            "cluster = \"wall\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
             [listen]\nhttp = \"{listen}\"\n[tls]\n{tls}[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n"
        );
        Config::parse(std::path::Path::new("/etc/tanist/tanist.toml"), &text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn clients_certificates_open_a_port_to_others_only_where_each_must_show_one() {
        const OWN: &str = "cert_file = \"t.crt\"\nkey_file = \"t.key\"\n";
        let clients = format!("{OWN}client_ca_file = \"c.crt\"\n");
        let tls = read("0.0.0.0:8080", &clients).unwrap().tls.unwrap();
        assert!(tls.admits_only_known());
        assert_eq!(tls.clients.unwrap().ca_file, std::path::Path::new("/etc/tanist/c.crt"));
        let optional = format!("{clients}client_certificates = \"optional\"\n");
        for open in [OWN, &optional] {
            let error = read("0.0.0.0:8080", open).unwrap_err();
            assert!(error.contains("listen.http") && error.contains("client_ca_file"), "{error}");
            assert!(!read("127.0.0.1:8080", open).unwrap().tls.unwrap().admits_only_known());
        }
    }

    #[test]
    fn halves_are_refused_by_field() {
        for (tls, field) in [
            ("cert_file = \"t.crt\"\n", "tls.key_file"),
            ("key_file = \"t.key\"\n", "tls.cert_file"),
            ("client_ca_file = \"c.crt\"\n", "tls.cert_file"),
            ("client_certificates = \"required\"\n", "tls.client_ca_file"),
            ("client_certificates = \"some\"\n", "tls.client_certificates"),
        ] {
            let error = read("127.0.0.1:8080", tls).unwrap_err();
            assert!(error.contains(field), "{tls}: {error}");
        }
    }
}
