// Role `fhirserverStore`: what the server may do in its database, and no more. Run it in mongosh as an administrator.
// The audit trail and the history can be added to and read; they can neither be changed nor removed.
const database = "fhirserver";
const appended = ["audit", "history", "commits"];
const written = ["store", "current", "ledger", "blobs", "chunks", "servers"];
const native = `
  Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic
  Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry
  ChargeItem ChargeItemDefinition Claim ClaimResponse ClinicalImpression CodeSystem Communication
  CommunicationRequest CompartmentDefinition Composition ConceptMap Condition Consent Contract Coverage
  CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric
  DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference EffectEvidenceSynthesis
  Encounter Endpoint EnrollmentRequest EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable
  ExampleScenario ExplanationOfBenefit FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse
  HealthcareService ImagingStudy Immunization ImmunizationEvaluation ImmunizationRecommendation
  ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure MeasureReport Media Medication
  MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest MedicationStatement
  MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication MedicinalProductIndication
  MedicinalProductIngredient MedicinalProductInteraction MedicinalProductManufactured MedicinalProductPackaged
  MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition MessageHeader
  MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition OperationDefinition
  OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice PaymentReconciliation
  Person PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse
  RelatedPerson RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject
  RiskAssessment RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition
  StructureDefinition StructureMap Subscription Substance SubstanceNucleicAcid SubstancePolymer SubstanceProtein
  SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification SupplyDelivery SupplyRequest Task
  TerminologyCapabilities TestReport TestScript ValueSet VerificationResult VisionPrescription
`.trim().split(/\s+/);

const may = (collection, ...actions) => ({ resource: { db: database, collection }, actions });
db.getSiblingDB("admin").createRole({
  role: "fhirserverStore",
  privileges: [
    // An empty name stands for every collection of the database.
    may("", "find", "listCollections", "listIndexes", "createCollection", "createIndex", "collStats", "dbStats"),
    ...appended.map((name) => may(name, "insert")),
    ...written.map((name) => may(name, "insert", "update", "remove")),
    ...native.map((name) => may(name, "insert", "update", "remove", "dropCollection")),
  ],
  roles: [],
});

// Role `fhirserverPurge`: for the user with whom an operator runs `fhirserver purge`. No server has it.
db.getSiblingDB("admin").createRole({
  role: "fhirserverPurge",
  privileges: [may("history", "remove")],
  roles: ["fhirserverStore"],
});
