-- Each service has a database of its own.
CREATE DATABASE nj_tenancy;
CREATE DATABASE nj_sprites;
CREATE DATABASE nj_billing;
CREATE DATABASE nj_audit;
