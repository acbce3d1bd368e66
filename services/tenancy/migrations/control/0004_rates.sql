-- What all gateways admitted, by subject and minute. Not worth a log: after a crash everybody begins at nothing.
CREATE UNLOGGED TABLE control.rates (
    subject bytea  NOT NULL CHECK (length(subject) = 16),
    minute  bigint NOT NULL,
    count   bigint NOT NULL,
    PRIMARY KEY (subject, minute)
);
CREATE INDEX rates_minute ON control.rates (minute);
GRANT SELECT, INSERT, UPDATE, DELETE ON control.rates TO {control};
