-- A database as the first release left it: what sqlite3's .dump printed of one that its code had written.
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE clips (
	registration_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	duration_s FLOAT NOT NULL,
	level_dbfs FLOAT NOT NULL,
	clipped_share FLOAT NOT NULL,
	audio BLOB NOT NULL,
	PRIMARY KEY (registration_id, position),
	FOREIGN KEY(registration_id) REFERENCES registrations (id)
);
INSERT INTO "clips" VALUES(1,1,'7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed',10.0,-20.5,0.0,X'6F6E65');
INSERT INTO "clips" VALUES(1,2,'3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3',10.0,-20.5,0.0,X'74776F');
INSERT INTO "clips" VALUES(1,3,'8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f',10.0,-20.5,0.0,X'7468726565');
INSERT INTO "clips" VALUES(2,1,'04efaf080f5a3e74e1c29d1ca6a48569382cbbcd324e8d59d2b83ef21c039f00',10.0,-20.5,0.0,X'666F7572');
INSERT INTO "clips" VALUES(2,2,'222b0bd51fcef7e65c2e62db2ed65457013bab56be6fafeb19ee11d453153c80',10.0,-20.5,0.0,X'66697665');
INSERT INTO "clips" VALUES(2,3,'44778d82365e4af681c40d5f0eef5cf6f5899d3f0ac335050a7ed6779cf3f674',10.0,-20.5,0.0,X'736978');
INSERT INTO "clips" VALUES(3,1,'3ba8d02b16fd2a01c1a8ba1a1f036d7ce386ed953696fa57331c2ac48a80b255',10.0,-20.5,0.0,X'736576656E');
INSERT INTO "clips" VALUES(3,2,'c195d2d8756234367242ba7616c5c60369bc25ced2dcb5b92808d31b58ef217a',10.0,-20.5,0.0,X'6569676874');
INSERT INTO "clips" VALUES(3,3,'edcd8e701a2df0cd66a39bae6aa156cf16fe2b9653ef65f7d31742e2352421e4',10.0,-20.5,0.0,X'6E696E65');
CREATE TABLE idempotency_keys (
	"key" VARCHAR(255) NOT NULL,
	request_sha256 VARCHAR(64) NOT NULL,
	registration_id INTEGER NOT NULL,
	PRIMARY KEY ("key"),
	FOREIGN KEY(registration_id) REFERENCES registrations (id)
);
INSERT INTO "idempotency_keys" VALUES('monday','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1);
CREATE TABLE in_force (
	machine_type VARCHAR(64) NOT NULL,
	section VARCHAR(64) NOT NULL,
	domain VARCHAR(64) NOT NULL,
	registration_id INTEGER NOT NULL,
	PRIMARY KEY (machine_type, section, domain),
	FOREIGN KEY(registration_id) REFERENCES registrations (id)
);
INSERT INTO "in_force" VALUES('fan','00','target',2);
CREATE TABLE registrations (
	id INTEGER NOT NULL,
	machine_type VARCHAR(64) NOT NULL,
	section VARCHAR(64) NOT NULL,
	domain VARCHAR(64) NOT NULL,
	version INTEGER NOT NULL,
	registered_at VARCHAR(32) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (machine_type, section, domain, version)
);
INSERT INTO "registrations" VALUES(1,'fan','00','target',1,'2026-11-24T10:01:24.259424+00:00');
INSERT INTO "registrations" VALUES(2,'fan','00','target',2,'2026-11-24T10:01:24.289773+00:00');
INSERT INTO "registrations" VALUES(3,'pump','00','target',1,'2026-11-24T10:01:24.292261+00:00');
COMMIT;
