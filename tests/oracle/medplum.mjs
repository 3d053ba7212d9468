// Answers searches with the matcher of @medplum/core: argument 1 is its module, the question comes on stdin.
import { pathToFileURL } from 'node:url';

const { indexSearchParameter, matchesSearchRequest } = await import(pathToFileURL(process.argv[2]).href);
let text = '';
for await (const part of process.stdin) {
  text += part;
}
const { parameters, resources, searches } = JSON.parse(text);
parameters.forEach((parameter) => indexSearchParameter(parameter));
const found = searches.map((search) =>
  resources.filter((each) => matchesSearchRequest(each, search)).map((each) => `${each.resourceType}/${each.id}`)
);
process.stdout.write(JSON.stringify(found));
