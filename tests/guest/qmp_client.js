// SPDX-License-Identifier: Apache-2.0
// Drives a machine with the npm package qemu-qmp, a client of QEMU's: node qmp_client.js SOCKET. Prints what it saw as JSON.
const QMP = require('qemu-qmp');
const events = [];
const qmp = new QMP();
for (const name of ['stop', 'reset', 'shutdown']) qmp.on(name, () => events.push(name));
const execute = (command, args) => new Promise((resolve, reject) => {
  const done = (error, value) => (error ? reject(error) : resolve(value));
  args ? qmp.execute(command, args, done) : qmp.execute(command, done);
});
qmp.connect(process.argv[2], async (error) => {
  if (error) throw error;
  const out = {version: qmp.version, replies: {}};
  for (const {name} of await execute('query-commands'))
    if (name.startsWith('query-')) out.replies[name] = await execute(name);
  await execute('stop');
  out.stopped = await execute('query-status');
  await execute('cont');
  await execute('balloon', {value: 200 * 1024 * 1024});
  out.unknown = await execute('no-such-command').catch((reason) => String(reason));
  await execute('system_reset');
  await execute('quit');
  setTimeout(() => {
    console.log(JSON.stringify(Object.assign(out, {events})));
    process.exit(0);
  }, 500);
});
