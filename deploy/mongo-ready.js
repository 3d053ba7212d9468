// Health of the node in compose.yaml: 0 if it can be written to. The first call makes it a replica set of one.
const admin = db.getSiblingDB("admin");
admin.auth("root", require("fs").readFileSync("/secrets/root-password", "utf8"));
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] });
}
quit(db.hello().isWritablePrimary ? 0 : 1);
