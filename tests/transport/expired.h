// SPDX-License-Identifier: Apache-2.0
// A certificate that has expired, under a CA whose key was kept.
#pragma once

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <string>

#include "base/file.h"
#include "tests/testing/certificates.h"

namespace wideberth::testing {

// Those of `role`, valid until a minute ago. `certificates` were made with --keep_ca.
inline transport::Credentials Expired(const Certificates& certificates, proto::Role role) {
  transport::Credentials credentials = certificates.Of(role);
  const std::string ca_pem = ReadFile(certificates.path() + "/ca.key").value_or("");
  BIO* const key_text = BIO_new_mem_buf(ca_pem.data(), static_cast<int>(ca_pem.size()));
  EVP_PKEY* const ca_key = PEM_read_bio_PrivateKey(key_text, nullptr, nullptr, nullptr);
  BIO* const text = BIO_new_mem_buf(credentials.certificate_pem.data(),
                                    static_cast<int>(credentials.certificate_pem.size()));
  X509* const certificate = PEM_read_bio_X509(text, nullptr, nullptr, nullptr);
  EXPECT_TRUE(ca_key != nullptr && certificate != nullptr);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), -60);
  EXPECT_GT(X509_sign(certificate, ca_key, EVP_sha256()), 0);
  BIO* const out = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(out, certificate);
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(out, &bytes);
  credentials.certificate_pem.assign(bytes, static_cast<size_t>(size));
  for (BIO* const bio : {key_text, text, out}) BIO_free(bio);
  X509_free(certificate);
  EVP_PKEY_free(ca_key);
  return credentials;
}

}  // namespace wideberth::testing
