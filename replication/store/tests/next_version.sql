-- The migration of a made-up next version, for tests of upgrades. Never part of a release.

CREATE TABLE tanist_next_version (
    id   INTEGER PRIMARY KEY,
    text TEXT    NOT NULL
) STRICT;
INSERT INTO tanist_next_version (text) VALUES ('made by the next version');
ALTER TABLE tanist_members ADD COLUMN next_version INTEGER NOT NULL DEFAULT 0;
